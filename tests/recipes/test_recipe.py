"""Recipes are read whole or refused in one line that says what to change."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgepath import backends
from edgepath.errors import RecipeError, UsageError
from edgepath.machine.shipped import data_folder
from edgepath.recipes.recipe import Quantize, Recipe, find_recipe, load_recipe, recipes
from edgepath.recipes.toml import read_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = sorted(data_folder("export").rglob("*.toml"))
OWN = """
schema = 1
target = "my-box"
summary = "a box of my own"
backend = "onnxruntime"
checked_with = "none"
precision = { linear = "int8", other = "fp32" }
deploy = { devices = ["box"] }
accept = { cosine_mean = 1, cosine_p01 = 0.5 }
"""


def own() -> dict[str, Any]:
    values = tomllib.loads(OWN)
    values["deploy"]["plan"] = [{"release": "1", "runtime": "2", "since": "2.0", "strongly_typed": True}]
    return values


def refused(values: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what ships


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_goes_through_json(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.target == path.stem
    assert path.parent.name == path.stem.partition("-")[0]
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json(), allow_nan=False))) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.int8 == ("int8" in path.stem)
    assert recipe.quantized == ("int8" in path.stem or "fp8" in path.stem)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_recipe_says_what_its_file_says(path: Path) -> None:
    def held(written: Any, read: Any) -> None:
        if isinstance(written, dict):
            for key, value in written.items():
                held(value, getattr(read, key))
        elif isinstance(written, list):
            assert len(written) == len(read)
            for one, other in zip(written, read, strict=True):
                held(one, other)
        else:
            assert written == read

    held(tomllib.loads(path.read_text(encoding="utf-8")), load_recipe(path))


def test_recipes_are_found_by_target() -> None:
    found = recipes()
    assert sorted(found) == sorted(path.stem for path in FILES)
    assert len(found) == 19
    assert {recipe.backend for recipe in found.values()} == set(backends.targets())
    for target, recipe in found.items():
        assert find_recipe(target) == recipe


def test_lower_precision_is_held_to_gates_of_its_own() -> None:
    for recipe in recipes().values():
        assert recipe.accept.cosine_p01 <= recipe.accept.cosine_mean
        assert recipe.accept.cosine_p01 >= (0.99 if recipe.quantized else 0.9999)


# --- one of the user's own


def test_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(OWN, encoding="utf-8")
    recipe = find_recipe(str(tmp_path / "box.toml"))
    assert recipe.target == "my-box"
    assert recipe.quantize == Quantize(smooth_alpha=0.5)
    assert recipe.deploy.plan == ()
    assert recipe.deploy.devices == ("box",)
    # a whole number is a number
    assert (recipe.accept.cosine_mean, type(recipe.accept.cosine_mean)) == (1.0, float)


def test_recipe_cannot_be_changed() -> None:
    recipe = Recipe.from_json(own())
    with pytest.raises(AttributeError):
        recipe.target = "other"  # type: ignore[misc]
    assert hash(recipe) == hash(Recipe.from_json(own()))


def test_reading_leaves_the_values_alone() -> None:
    values = own()
    before = copy.deepcopy(values)
    Recipe.from_json(values)
    assert values == before


# --- what is refused


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError, match='target "jetson-int4" is not known; did you mean "jetson-int8"'):
        find_recipe("jetson-int4")
    with pytest.raises(UsageError, match="known: coreai-fp16, coreai-int8, coreml-fp16"):
        find_recipe("")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("sumary", 'recipe my-box: sumary is not a key; did you mean "summary"'),
        ("quantize.observer", "recipe my-box: quantize.observer is not a key; known: class_token, keep, looks"),
        ("quantize.smoth_alpha", 'quantize.smoth_alpha is not a key; did you mean "smooth_alpha"?'),
        ("accept.cosine_p1", 'accept.cosine_p1 is not a key; did you mean "cosine_p01"'),
        ("deploy.plan.0.flag", 'deploy.plan.flag is not a key; did you mean "flags"?'),
        ("1", "1 is not a key; known: accept, backend"),
    ],
)
def test_unknown_key_names_the_nearest(path: str, said: str) -> None:
    assert said in refused(changed(path, "x"))


@pytest.mark.parametrize(
    "path",
    [
        "target",
        "summary",
        "backend",
        "checked_with",
        "precision",
        "deploy",
        "accept",
        "precision.linear",
        "precision.other",
        "deploy.devices",
        "accept.cosine_mean",
        "accept.cosine_p01",
        "deploy.plan.0.runtime",
    ],
)
def test_missing_key_is_named(path: str) -> None:
    assert refused(changed(path, None)).endswith(f"{path.replace('.0', '')} is missing")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("summary", 5, "summary = 5; expected str"),
        ("summary", ["x"], "summary = ['x']; expected str"),
        ("target", True, "target = True; expected str"),
        ("precision", "int8", "precision is 'int8'; expected a table"),
        ("deploy", [], "deploy is []; expected a table"),
        ("deploy.devices", "Jetson", "deploy.devices = 'Jetson'; expected a list"),
        ("deploy.devices", [1], "deploy.devices = 1; expected str"),
        ("deploy.plan", {"release": "1"}, "expected a list"),
        ("deploy.plan", ["1"], "deploy.plan is '1'; expected a table"),
        ("deploy.plan.0.strongly_typed", 1, "deploy.plan.strongly_typed = 1; expected bool"),
        ("deploy.plan.0.flags", ["--fp16", True], "deploy.plan.flags = True; expected str"),
        ("accept.cosine_mean", "0.9", "accept.cosine_mean = '0.9'; expected float"),
        ("accept.cosine_mean", True, "accept.cosine_mean = True; expected float"),
        ("quantize.smooth_alpha", False, "quantize.smooth_alpha = False; expected float"),
        ("schema", True, "schema = True; expected int"),
        ("schema", 1.0, "schema = 1.0; expected int"),
        ("schema", "1", "schema = '1'; expected int"),
        ("backend", "tensorflow", 'backend = "tensorflow"; did you mean "tensorrt"'),
        ("backend", ["onnxruntime"], "backend = ['onnxruntime']; expected str"),
        ("precision.linear", "int4", 'precision.linear = "int4"; did you mean "int8"'),
        ("precision.other", "int8", 'precision.other = "int8"; known: bf16, fp16, fp32'),
        ("deploy.plan.0.since", "2", 'deploy.plan.since = "2"; expected MAJOR.MINOR'),
        ("checked_with", "coreml", 'checked_with = "coreml"'),
        ("checked_with", "a\nb", 'checked_with = "a\\nb"; what onnxruntime builds'),
        ("precision.other", "a\nb", 'precision.other = "a\\nb"; known: bf16, fp16, fp32'),
        (
            "precision.first_block",
            "fp32",
            'precision.first_block = "fp32"; it can be so with other = "fp16" in targets of',
        ),
        ("precision.first_block", "int8", 'precision.first_block = "int8"; known: fp32, other'),
        ("quantize.smooth_alpha", 10**400, "0000; expected float"),
    ],
)
def test_value_of_another_type_is_refused(path: str, value: Any, said: str) -> None:
    message = refused(changed(path, value))
    assert said in message
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize("values", [{"schema": 1 << 100_000}, {"key\x1b[31m" * 100: 1}], ids=["number", "key"])
def test_what_is_long_is_shown_in_part(values: dict[str, Any]) -> None:
    message = refused(own() | values)
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize("path", ["accept.cosine_mean", "accept.cosine_p01", "quantize.smooth_alpha"])
@pytest.mark.parametrize("value", [-0.01, 1.0001, 99, float("nan"), float("inf")])
def test_number_out_of_range_is_refused(path: str, value: float) -> None:
    assert refused(changed(path, value)).endswith(f"{path} = {float(value)}; expected a number from 0 to 1")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_ratio_of_latencies_is_above_0(value: float) -> None:
    said = refused(changed("accept.latency", {"of_full_precision": value}))
    assert said.endswith(f"accept.latency.of_full_precision = {float(value)}; expected a ratio above 0")
    allowed = Recipe.from_json(changed("accept.latency", {"of_full_precision": 1.5})).accept.latency
    assert allowed.of_full_precision == 1.5


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0])
def test_ends_of_the_range_are_in_it(value: float) -> None:
    assert Recipe.from_json(changed("quantize.smooth_alpha", value)).quantize.smooth_alpha == value


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_refused_before_its_keys_are_read(schema: int) -> None:
    said = refused(own() | {"schema": schema, "key_of_a_later_release": 1})
    assert said == f"recipe my-box: schema = {schema}; this edgepath reads schema 1"


@pytest.mark.parametrize("target", ["", "../../etc", "a/b", ".hidden", "-x", "two\nlines", "ü", "a b"])
def test_target_that_is_no_name_for_a_folder_is_refused(target: str) -> None:
    assert f"recipe recipe: target = {target!r}; it names a folder" in refused(own() | {"target": target})


@pytest.mark.parametrize("values", [None, [], "x", 3, [["target", "x"]]])
def test_what_is_no_table_is_refused(values: Any) -> None:
    assert refused(values) == f"recipe recipe: the file is {values!r}; expected a table"


@pytest.mark.parametrize(
    "text",
    [
        b"target = ",
        b"target = 'x'\ntarget = 'y'",
        b"\xff\xfe",
        b"[deploy",
        b"\xef\xbb\xbftarget = 'x'",
        b"a=" + b"[" * 9999,
        b"schema = " + b"9" * 5000,
        b".".join([b"a"] * 20_000) + b" = 1",
    ],
    ids=["no value", "key twice", "not UTF-8", "open table", "byte order mark", "nested", "long number", "long key"],
)
def test_bad_toml_is_one_line_with_the_files_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "box.toml").write_bytes(text)
    with pytest.raises(RecipeError, match=r"^recipe box\.toml: not valid TOML \(.+\)$"):
        find_recipe(str(tmp_path / "box.toml"))


def test_empty_file_misses_its_first_key(tmp_path: Path) -> None:
    (tmp_path / "box.toml").touch()
    with pytest.raises(RecipeError, match=r"^recipe box: target is missing$"):
        load_recipe(tmp_path / "box.toml")


def test_file_that_is_no_recipe_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_bytes(b"#" * (1 << 20))
    with pytest.raises(RecipeError, match=r"box\.toml: has more than 65536 bytes"):
        load_recipe(tmp_path / "box.toml")


def test_recipe_is_written_as_the_file_that_reads_back_as_it(tmp_path: Path) -> None:
    for recipe in (*recipes().values(), Recipe.from_json(changed("summary", 'quote " and \\, \x7f\r\n'))):
        (tmp_path / "again.toml").write_text(recipe.to_toml(), encoding="utf-8", newline="")
        assert load_recipe(tmp_path / "again.toml") == recipe


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"box\.toml: no such file"):
        find_recipe(str(tmp_path / "box.toml"))


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "box.toml").mkdir()
    with pytest.raises(RecipeError, match=r"box\.toml: cannot be read \(Is a directory\)"):
        find_recipe(str(tmp_path / "box.toml"))
    (tmp_path / "mine.toml").touch(mode=0o000)
    if os.geteuid():  # root reads it all the same
        with pytest.raises(RecipeError, match=r"mine\.toml: cannot be read \(Permission denied\)"):
            find_recipe(str(tmp_path / "mine.toml"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """`own()` with one value set, or left out for None."""
    values = own()
    *steps, last = path.split(".")
    place: Any = values
    for step in steps:
        place = place[int(step)] if step.isdigit() else place.setdefault(step, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return values


@pytest.mark.parametrize(
    ("target", "change", "said"),
    [
        ("onnx-fp32", {"precision": {"linear": "fp16", "other": "fp16"}}, "precision fp16/fp16; onnxruntime builds"),
        ("jetson-fp16", {"precision": {"linear": "fp32", "other": "fp32"}}, "precision fp32/fp32; tensorrt builds"),
        ("thor-fp8", {"deploy": {"devices": ["Jetson AGX Orin"]}}, 'names "Jetson AGX Orin"; an Orin has no FP8'),
        (
            "thor-fp8",
            {"deploy": recipes()["jetson-int8"].to_json()["deploy"] | {"devices": ["a"]}},
            "weakly typed; FP8",
        ),
        ("thor-fp8", {"quantize": {"weight_bits": 4}}, "quantize.weight_bits = 4; FP8 weights have 8"),
        ("onnx-int8", {"precision": {"linear": "fp8", "other": "fp32"}}, "precision fp8/fp32; onnxruntime builds"),
        ("coreml-fp16", {"checked_with": "openvino"}, 'checked_with = "openvino"; what coreml builds'),
        ("coreml-fp16", {"deploy": {"devices": ["Mac"]}}, 'deploy.minimum_os = ""; known: iOS16'),
        ("coreml-int8", {"deploy": {"devices": ["Mac"], "minimum_os": "iOS16"}}, "known: iOS18"),
        ("rtx-int8", {"deploy": {"devices": ["RTX"]}}, "deploy.compute_capabilities = []; expected some of SM75, SM80"),
        ("rtx-int8", {"deploy": {"devices": ["a"], "compute_capabilities": ["SM87"]}}, "['SM87']; expected some of"),
        ("rtx-int8", {"deploy": {"devices": ["a"], "compute_capabilities": ["SM86"] * 2}}, "'SM86']; expected some"),
    ],
)
def test_what_a_backend_does_not_build_is_refused(target: str, change: dict[str, Any], said: str) -> None:
    assert said in refused(recipes()[target].to_json() | change)


def recipe_with(folder: Path, key: str) -> Path:
    text = (data_folder("export") / "onnx" / "onnx-int8.toml").read_text(encoding="utf-8")
    path = folder / "older.toml"
    path.write_text(text.replace("[quantize]\n", f"[quantize]\n{key}\n"), encoding="utf-8")
    return path


@pytest.mark.parametrize("key", ['rounding = "nearest"', "scores = false"])
def test_a_removed_key_that_changes_nothing_is_read(key: str, tmp_path: Path) -> None:
    assert load_recipe(recipe_with(tmp_path, key)).quantize == recipes()["onnx-int8"].quantize


@pytest.mark.parametrize("key", ['rounding = "gptq"', "scores = true"])
def test_a_removed_key_that_changes_something_is_refused_in_recipes(key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^recipe older: quantize.{key} was removed; leave it out$"):
        load_recipe(recipe_with(tmp_path, key))
    assert Recipe.from_json(read_toml(recipe_with(tmp_path, key))).quantize == recipes()["onnx-int8"].quantize


@pytest.mark.parametrize("key", ['rounding = "gtpq"', "scores = 3"])
def test_a_removed_key_never_had_such_a_value(key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"quantize\.(rounding|scores)"):
        load_recipe(recipe_with(tmp_path, key))
