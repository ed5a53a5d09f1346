"""Bundles are signed with a key that never leaves its token (PKCS#11); SoftHSM is the token here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bundle import fill, manifest
from test_signing import certificates

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.signing import sign
from edgepath.bundle.writer import BundleWriter
from edgepath.errors import BundleError, MissingRuntime, UsageError

pytest.importorskip("OpenSSL")
pytest.importorskip("model_signing")

PIN = "5678"
MODULE = next((path for path in Path("/usr/lib").glob("**/libsofthsm2.so") if path.is_file()), None)
Uri = Callable[..., str]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with BundleWriter(tmp_path / "made" / "tiny-onnx-fp32") as writer:
        fill(writer.path)
        writer.commit(manifest())
    return open_bundle(tmp_path / "made" / "tiny-onnx-fp32")


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uri:
    """A token that is called `edge`, with one key, `release`; return the URI of a key in it."""
    pytest.importorskip("PyKCS11", reason="needs the extra pkcs11")
    if MODULE is None or shutil.which("softhsm2-util") is None or shutil.which("pkcs11-tool") is None:
        pytest.skip("needs SoftHSM and OpenSC (apt-get install softhsm2 opensc)")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    _run("softhsm2-util", "--init-token", "--free", "--label", "edge", "--so-pin", "1234", "--pin", PIN)
    token = ["pkcs11-tool", "--module", str(MODULE), "--token-label", "edge", "--login", "--pin", PIN]
    _run(*token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "release", "--id", "01")
    _run(*token, "--read-object", "--type", "pubkey", "--label", "release", "-o", str(tmp_path / "release.der"))

    def of(key: str = "object=release", token: str = "edge", module: str = str(MODULE), pin: str = PIN) -> str:
        return f"pkcs11:token={token};{key}?module-path={module}" + (f"&pin-value={pin}" if pin else "")

    return of


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def public_key(folder: Path) -> Path:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_der_public_key((folder / "release.der").read_bytes())
    how = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "release.pub").write_bytes(key.public_bytes(*how))
    return folder / "release.pub"


@pytest.mark.parametrize("key", ["object=release", "id=%01"])
def test_a_key_in_a_token_signs_and_its_public_key_is_trusted(
    bundle: Bundle, uri: Uri, tmp_path: Path, key: str
) -> None:
    sign(bundle, pkcs11=uri(key))
    assert open_bundle(bundle.path, trust=public_key(tmp_path)).digest == bundle.digest
    (tmp_path / "foreign").mkdir()
    with pytest.raises(BundleError, match=r"not by root\.crt"):
        open_bundle(bundle.path, trust=certificates(tmp_path / "foreign")[2])


def test_its_pin_is_read_from_a_file(bundle: Bundle, uri: Uri, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(PIN)
    sign(bundle, pkcs11=uri(pin="") + f"&pin-source={tmp_path / 'pin'}")
    assert open_bundle(bundle.path, trust=public_key(tmp_path)).digest == bundle.digest


def test_a_certificate_of_the_tokens_key_is_trusted_by_its_root(bundle: Bundle, uri: Uri, tmp_path: Path) -> None:
    _, leaf, root = certificates(tmp_path, public_key(tmp_path))
    sign(bundle, pkcs11=uri(), certificate=leaf, chain=[root])
    assert open_bundle(bundle.path, trust=root).digest == bundle.digest


def test_a_certificate_of_another_key_cannot_sign(bundle: Bundle, uri: Uri, tmp_path: Path) -> None:
    _, leaf, root = certificates(tmp_path)
    with pytest.raises(UsageError, match="the key cannot sign"):
        sign(bundle, pkcs11=uri(), certificate=leaf, chain=[root])


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"pin": "0000"}, "PIN_INCORRECT"),
        ({"pin": ""}, r"without its token's PIN \(pin-source=FILE"),
        ({"key": "object=other"}, "Could not find any object with label other"),
        ({"token": "other"}, "Could not find a token with label other"),
        ({"module": "/nowhere/module.so"}, "/nowhere/module.so"),
    ],
)
def test_what_the_token_refuses_is_one_line_and_leaves_no_signature(
    bundle: Bundle, uri: Uri, changed: dict[str, str], wanted: str
) -> None:
    with pytest.raises(UsageError, match=wanted) as caught:
        sign(bundle, pkcs11=uri(**changed))
    assert "\n" not in str(caught.value)
    assert PIN not in str(caught.value)
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_the_missing_package_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyKCS11", None)
    with pytest.raises(MissingRuntime, match=r"edgepath\[pkcs11\]"):
        sign(bundle, pkcs11="pkcs11:token=x;object=y")


@pytest.mark.parametrize(
    "uri",
    [
        "PKCS11:token=edge?pin-value=SECRET%2142",
        "pkcs11:token=edge;?pin-value=SECRET%2142&module-path=/nowhere.so",
        "pkcs11:pin-value=SECRET%2142",
        "pkcs11:?pin-value=SECRET%2142",
        "pkcs11:token=edge?pin-source=/SECRET%2142",
        "SECRET!42",
    ],
)
def test_no_message_quotes_a_pin(bundle: Bundle, uri: str) -> None:
    pytest.importorskip("PyKCS11", reason="needs the extra pkcs11")
    with pytest.raises(UsageError) as raised:
        sign(bundle.path, pkcs11=uri)
    assert "SECRET" not in str(raised.value)
    assert "\n" not in str(raised.value)
