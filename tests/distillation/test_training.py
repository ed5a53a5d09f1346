"""Whole runs: they learn, survive a kill bit for bit, share a batch between processes, and refuse what cannot be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import STOPPED, command, environment
from safetensors.torch import save_file
from small_models import RECIPE, SMALL, STUDENT, TEACHER, vit

from edgepath.distillation.run import _start, update_average
from edgepath.distillation.runfolder import read_log
from edgepath.distillation.training import distill
from edgepath.errors import EdgepathError, RecipeError, UsageError
from edgepath.machine.tables import parse_toml
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model, random_model, state_sha256

Run = Callable[..., dict[str, Any]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_run_folder_loads_as_weights(run: Run, tmp_path: Path) -> None:
    done = run()
    folder = tmp_path / "run"
    names = {"model.safetensors", "config.json", "run.toml", "log.csv", "loss.png", "checkpoint.pt"}
    assert {path.name for path in folder.iterdir()} == names
    _, spec, facts = load_model(STUDENT, folder)
    assert not facts.random
    assert spec.mean == STUDENT.mean
    assert [row["step"] for row in read_log(folder)] == [1, 2, 3, 4]
    assert done["last"]["step"] == 4
    text = (folder / "run.toml").read_text()
    assert 'teacher_prototypes = "random"' in text
    assert str(tmp_path) not in text
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_teacher_and_student_are_found_in_checkpoints(run: Run, tmp_path: Path) -> None:
    teacher, student = random_model(TEACHER, seed=3).state_dict(), random_model(STUDENT, seed=4).state_dict()
    torch.save({"teacher": {f"backbone.{name}": value for name, value in teacher.items()}}, tmp_path / "t.pth")
    torch.save({"state_dict": student, "state_dict_ema": teacher}, tmp_path / "s.pth")
    run(teacher_weights=tmp_path / "t.pth", student_weights=f"{tmp_path}/s.pth::state_dict")
    facts = parse_toml((tmp_path / "run" / "run.toml").read_text())["models"]
    assert facts["teacher"]["source"] == "t.pth::teacher.backbone"
    assert facts["teacher"]["sha256"] == state_sha256(random_model(TEACHER, seed=3))
    assert facts["student"]["start"].startswith("s.pth::state_dict, state_dict_ema left out, sha256 ")


def test_student_is_built_as_its_folder_says(tmp_path: Path) -> None:
    arguments = {"embed_dim": 48, "num_heads": 2, "depth": 1, "patch_size": 56, "act_layer": "relu"}
    spec = find_model("timm:vit_tiny_patch16_224")
    relu = random_model(replace(spec, timm_args={**spec.timm_args, **arguments, "act_layer": "ReLU"}))
    save_file(relu.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": spec.timm_name, "mean": [0.5] * 3, "std": [0.5] * 3, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vit, started, _ = _start("timm:vit_tiny_patch16_224", tmp_path)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(vit.eval().forward_features(pixels), relu.forward_features(pixels))
    assert started.timm_args["act_layer"] == "ReLU"


def test_average_is_the_formula() -> None:
    torch.manual_seed(0)
    average, model = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    wanted = 0.9 * average.weight.detach() + 0.1 * model.weight.detach()
    update_average(average, model, 0.9)
    assert torch.allclose(average.weight, wanted, atol=1e-7)


def test_student_learns(run: Run, tmp_path: Path) -> None:
    changes = {"training.steps": 60, "training.batch": 8, "training.learning_rate": 3e-3, "run.log_every": 10}
    run(tiles="synthetic:64", options=changes | {"run.checkpoint_every": 60})
    rows = read_log(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert rows[-1]["patch_agreement"] > rows[0]["patch_agreement"] + 0.01
    assert rows[-1]["cls_agreement"] > rows[0]["cls_agreement"]


def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(tmp_path: Path) -> None:
    changes = {"training.steps": 6, "run.checkpoint_every": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([sys.executable, *command(whole, changes)], check=True, env=environment())
    died = subprocess.run([sys.executable, *command(cut, changes, "die")], env=environment())
    assert died.returncode == -signal.SIGKILL
    assert not (cut / "model.safetensors").exists(), "it was killed after its end"
    subprocess.run([sys.executable, *command(cut, changes, "resume")], check=True, env=environment())
    first, second = weights(whole), weights(cut)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["step"] for row in read_log(cut)] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in read_log(cut)] == [row["loss"] for row in read_log(whole)]


def test_views_draw_no_number_of_a_resumed_run(tmp_path: Path) -> None:
    def run(name: str, workers: int, how: str) -> int:
        given = command(tmp_path / name, {"run.workers": workers}, how, student="deeper")
        return subprocess.run([sys.executable, *given], env=environment()).returncode

    assert run("cut", 2, "stop") == STOPPED
    assert run("cut", 2, "resume") == run("whole", 0, "start") == 0
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_workers_end_after_a_run_that_was_killed(tmp_path: Path) -> None:
    out, changes = tmp_path / "run", {"training.steps": 100000, "run.workers": 1, "run.prefetch": 20}
    process = subprocess.Popen([sys.executable, *command(out, changes)], env=environment())
    while len(read_log(out)) < 2 and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # by now a view waits for a place in the pipe, for which PyTorch's worker would wait for ever
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert workers
    while any(map(_is_alive, workers)):  # for ever, if they wait for their views to be fetched
        time.sleep(0.1)


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_processes_train_what_one_trains(run: Run, tmp_path: Path) -> None:
    one, two, start = tmp_path / "one", tmp_path / "two", tmp_path / "start"
    run(out=one)
    run(out=start, options={"training.learning_rate": 0.0, "training.learning_rate_end": 0.0})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, *command(two, {})], check=True, env=environment(), capture_output=True)
    alone, shared, before = weights(one), weights(two), weights(start)
    moved = sum(float((alone[name] - before[name]).square().sum()) for name in alone) ** 0.5
    apart = sum(float((alone[name] - shared[name]).square().sum()) for name in alone) ** 0.5
    assert moved > 0
    # Sums in another order, which AdamW's division by the gradient's own size enlarges; other data would give about 1.
    assert apart < 0.05 * moved
    for left, right in zip(read_log(one), read_log(two), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-3)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_without_a_center(tmp_path: Path) -> None:
    first = tmp_path / "first"
    subprocess.run([sys.executable, *command(first, {})], check=True, env=environment())
    still = {"training.learning_rate": 0.0, "training.learning_rate_end": 0.0, "training.steps": 6}
    still |= {"heads.student": "teacher", "views.global_count": 1, "views.local_count": 0, "heads.bottleneck": 48}
    norms = {}
    for centering in ("none", "mean"):
        out = tmp_path / centering
        distill(
            STUDENT,
            STUDENT,
            "synthetic:8",
            out,
            recipe=RECIPE,
            options={**SMALL, **still, "loss.centering": centering},
            teacher_weights=first,
            student_weights=first,
            device="cpu",
        )
        norms[centering] = read_log(out)[-1]["gradient_norm"]
    # Class tokens of so small a model hardly differ, so that rounding is enlarged in both.
    assert norms["none"] < 1e-3 * norms["mean"]


def test_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepath.distillation import run as run_module

    calls, real = [], run_module.ibot_loss
    monkeypatch.setattr(
        run_module, "ibot_loss", lambda *a: (calls.append(1), real(*a) * (float("nan") if len(calls) == 3 else 1))[1]
    )
    with pytest.raises(EdgepathError, match="step 3: the loss is nan; the last checkpoint is kept"):
        run()
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_gradient_that_is_not_finite_stops_before_the_step_and_a_lower_rate_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    real, calls = torch.nn.utils.clip_grad_norm_, []

    def odd(parameters: Any, largest: float) -> torch.Tensor:
        calls.append(1)
        norm = real(parameters, largest)
        return norm * float(value) if len(calls) == 2 else norm

    with monkeypatch.context() as broken:
        broken.setattr(torch.nn.utils, "clip_grad_norm_", odd)
        with pytest.raises(EdgepathError, match=f"step 2: the gradient is {value}; .* go on from it with --resume and"):
            run()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    assert all(bool(tensor.isfinite().all()) for tensor in state["student"].values())
    done = run(resume=True, options={"training.learning_rate": 1e-5, "training.clip": 0.5})
    assert done["steps"] == done["last"]["step"]
    assert "learning_rate = 1e-05" in (tmp_path / "run" / "run.toml").read_text()


def test_what_is_no_checkpoint_of_such_a_run_is_one_line(run: Run, tmp_path: Path) -> None:
    run()
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    path.write_text("not a checkpoint\n" * 100)
    with pytest.raises(UsageError, match="not a whole checkpoint"):
        run(resume=True)
    torch.save({"schema": 1}, path)
    with pytest.raises(UsageError, match="not a checkpoint of schema 1"):
        run(resume=True)
    del state["options"]["heads"]  # as a teacher's run has none
    torch.save(state, path)
    with pytest.raises(UsageError, match="its checkpoint is of another kind of run"):
        run(resume=True)


def test_a_log_that_is_damaged_or_gone_is_one_line(run: Run, tmp_path: Path) -> None:
    run()
    log = tmp_path / "run" / "log.csv"
    log.write_text(log.read_text().replace("\n1,", "\none,", 1))
    with pytest.raises(UsageError, match=r"log.csv: not a whole log \(could not convert string to float: 'one'\)"):
        run(resume=True)
    log.unlink()
    with pytest.raises(UsageError, match=r"log.csv has no rows, so there is no loss.png to draw; the weights are"):
        run(resume=True)


def test_one_tile_is_too_few_to_fit_heads(run: Run) -> None:
    with pytest.raises(UsageError, match="1 of the tiles for the teacher's heads; they are fitted on 2 or more"):
        run(tiles="synthetic:1", options={"training.batch": 1})


def test_runs_are_not_overwritten_and_resumed_only_as_they_began(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        run(resume=True)
    run()
    with pytest.raises(UsageError, match="go on with --resume, replace it with --force"):
        run()
    with pytest.raises(UsageError, match=r"training\.batch is 2048, was 4 when the run began"):
        run(resume=True, options={"training.batch": 2048})
    with pytest.raises(UsageError, match=r"loss\.dino is 2\.0, was 1\.0 when the run began"):
        run(resume=True, options={"loss.dino": 2.0})
    with pytest.raises(UsageError, match=r"tiles is .*, the run began with"):
        run(resume=True, tiles="synthetic:8:1")
    before = weights(tmp_path / "run")
    run(resume=True, options={"run.log_every": 2})  # changes no weight
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())
    run(force=True, options={"training.steps": 1})
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UsageError, match="not a whole checkpoint"):
        run(resume=True, options={"training.steps": 1})


def test_a_folder_that_is_no_run_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    with pytest.raises(UsageError, match="is not a distillation run"):
        run(force=True)
    assert (tmp_path / "run" / "precious").exists()


def test_teacher_and_student_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="14 x 14 patch tokens, student small 16 x 16"):
        run(teacher="timm:vit_tiny_patch16_224", teacher_weights="random")
    with pytest.raises(UsageError, match="has no class token to distil into"):
        run(student=no_class_token())
    with pytest.raises(UsageError, match=r"views\.local_size = 60; student small needs a multiple of its 14 px"):
        run(options={"views.local_size": 60})
    with pytest.raises(RecipeError, match=r"training\.steps"):
        run(options={"training.steps": 0})


def test_student_of_its_teachers_width_learns_through_its_teachers_head(run: Run, tmp_path: Path) -> None:
    changes = {"heads.student": "teacher", "training.learning_rate": 1e-3}
    done = run(student=vit("same", 96), options=changes | {"training.steps": 12, "run.checkpoint_every": 12})
    rows = read_log(tmp_path / "run")
    assert done["steps"] == 12
    assert rows[-1]["loss"] < rows[0]["loss"]
    with pytest.raises(RecipeError, match=r'heads\.student = "teacher": student small has 48 features, its teacher 96'):
        run(options=changes, out=tmp_path / "other")


def no_class_token() -> Any:
    return vit("gap", 48, class_token=False, reg_tokens=0, no_embed_class=True)


def test_student_without_registers_learns_too(run: Run) -> None:
    assert run(student=vit("bare", 48, reg_tokens=0), options={"training.steps": 1})["steps"] == 1
