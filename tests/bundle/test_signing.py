"""Who signed a bundle is told from outside of it; whoever else writes its hashes anew is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_bundle import fill, manifest, refused, rewrite

import edgepath
from edgepath.bundle import signatures
from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.signing import sign
from edgepath.bundle.writer import BundleWriter
from edgepath.errors import BundleError, MissingRuntime, UsageError

pytest.importorskip("OpenSSL")
pytest.importorskip("model_signing")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with BundleWriter(tmp_path / "made" / "tiny-onnx-fp32") as writer:
        fill(writer.path)
        writer.commit(manifest())
    return open_bundle(tmp_path / "made" / "tiny-onnx-fp32")


def keys(folder: Path, name: str = "key", password: bytes | None = None) -> tuple[Path, Path]:
    """Make a private and a public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    how = plain if password is None else serialization.BestAvailableEncryption(password)
    (folder / f"{name}.pem").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


def certificates(
    folder: Path,
    public: Path | None = None,
    days: tuple[int, int] = (-1, 9),
    root_days: tuple[int, int] | None = None,
) -> tuple[Path, Path, Path]:
    """Make a key, a certificate of it or of a public key that is there, and the root that signed that.

    The certificate is valid between two days from now, and so is the root, or as `root_days` say.
    """
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(timezone.utc)
    made = {}
    for name, ca in (("root", True), ("leaf", False)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer, by = (subject, key) if ca else made["root"]
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        of = key.public_key() if ca or public is None else serialization.load_pem_public_key(public.read_bytes())
        builder = x509.CertificateBuilder(issuer, subject, of, x509.random_serial_number())
        first, last = (root_days or days) if ca else days
        builder = builder.not_valid_before(now + timedelta(first)).not_valid_after(now + timedelta(last))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True).add_extension(usage, True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(of), False)
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
        builder = builder.add_extension(own, False)
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), False)
        certificate = builder.sign(by, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made[name] = (subject, key)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "leaf.pem").write_bytes(made["leaf"][1].private_bytes(pem, kind, serialization.NoEncryption()))
    return folder / "leaf.pem", folder / "leaf.crt", folder / "root.crt"


def test_a_signed_bundle_is_opened_with_the_key_and_stays_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    signed = edgepath.sign(bundle.path, key=private)
    assert signed == {
        "bundle": bundle.name,
        "digest": bundle.digest,
        "signature": str(bundle.path.with_name(f"{bundle.path.name}.sig")),
    }
    assert open_bundle(bundle.path, trust=public).digest == bundle.digest
    (bundle.path / ".DS_Store").write_bytes(b"left by a system")  # changes nothing
    assert open_bundle(bundle.path, trust=public).digest == bundle.digest
    with pytest.raises(UsageError, match="exists; give --force"):
        sign(bundle, key=private)
    sign(bundle, key=private, force=True)


def test_other_tools_verify_the_signature(bundle: Bundle, tmp_path: Path) -> None:
    from model_signing import verifying

    private, public = keys(tmp_path)
    path = Path(sign(bundle, key=private)["signature"])
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(bundle.path, path)


def edited(bundle: Bundle) -> None:
    rewrite(bundle, lambda values: values.update(cautions=["all is well"]))


def rehashed(bundle: Bundle) -> None:
    import hashlib

    (bundle.path / "model.onnx").write_bytes(b"another model")
    entry = {"sha256": hashlib.sha256(b"another model").hexdigest(), "size_bytes": 13}
    rewrite(bundle, lambda values: values["files"].update({"model.onnx": entry}))


@pytest.mark.parametrize("change", [edited, rehashed])
def test_what_was_changed_since_is_refused_though_its_hashes_are_right(
    bundle: Bundle, tmp_path: Path, change: Callable[[Bundle], None]
) -> None:
    private, public = keys(tmp_path)
    sign(bundle, key=private)
    change(bundle)
    assert open_bundle(bundle.path).name == bundle.name
    with pytest.raises(BundleError, match=r"its signature is not by key\.pub, or of another bundle") as caught:
        open_bundle(bundle.path, trust=public)
    assert "\n" not in str(caught.value)


def test_foreign_missing_and_broken_signatures_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    with pytest.raises(BundleError, match="it is not signed"):
        open_bundle(bundle.path, trust=public)
    path = Path(sign(bundle, key=private)["signature"])
    with pytest.raises(BundleError, match=r"not by other\.pub"):
        open_bundle(bundle.path, trust=other)
    with pytest.raises(UsageError, match="no public key or certificate"):
        open_bundle(bundle.path, trust=bundle.path / "bundle.json")
    with pytest.raises(UsageError, match="not a regular file"):
        open_bundle(bundle.path, trust=Path("/dev/zero"))
    with pytest.raises(UsageError, match="without the key to trust"):
        open_bundle(bundle.path, signature=path)
    whole = path.read_bytes()
    for raw in (b"", b"{}", b"[" * 9999, whole[:-40], whole.replace(b"payload", b"pAyload"), b"null"):
        path.write_bytes(raw)
        with pytest.raises(BundleError, match=r"its signature is not by key\.pub"):
            open_bundle(bundle.path, trust=public)


def test_signature_of_another_bundle_by_the_same_key_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    other = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    values = json.loads((other / "bundle.json").read_text()) | {"cautions": ["another"]}
    (other / "bundle.json").write_text(json.dumps(values))
    path = sign(other, key=private)["signature"]
    with pytest.raises(BundleError, match="of another bundle"):
        open_bundle(bundle.path, trust=public, signature=path)


def test_certificates_are_trusted_by_their_root(bundle: Bundle, tmp_path: Path) -> None:
    private, leaf, root = certificates(tmp_path)
    sign(bundle, key=private, certificate=leaf, chain=[root])
    assert open_bundle(bundle.path, trust=root).digest == bundle.digest
    (tmp_path / "elsewhere").mkdir()
    _, _, foreign = certificates(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"not by root\.crt"):
        open_bundle(bundle.path, trust=foreign)


@pytest.mark.parametrize("days", [(-9, -1), (1, 9)])
def test_a_certificate_that_is_not_valid_today_cannot_sign(
    bundle: Bundle, tmp_path: Path, days: tuple[int, int]
) -> None:
    private, leaf, root = certificates(tmp_path, days=days)
    with pytest.raises(UsageError, match=r"its certificate is valid from \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, today"):
        sign(bundle, key=private, certificate=leaf, chain=[root])
    assert not bundle.path.with_name(f"{bundle.path.name}.sig").exists()


def kit_check(kit: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load a bundle's kit/check.py."""
    spec = importlib.util.spec_from_file_location("check", kit / "kit" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(check)
    return check


def at(clock: pytest.MonkeyPatch, module: Any, days: int) -> None:
    """Set the clock of a module some days on."""
    from datetime import datetime, timedelta, timezone

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(timezone.utc) + timedelta(days)

    clock.setattr(module, "datetime", Later)


@pytest.mark.parametrize(("days", "held"), [(0, True), (8, True), (10, False), (-2, False), (-20000, False)])
def test_a_certificate_has_to_be_valid_when_a_bundle_is_verified(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, held: bool
) -> None:
    private, leaf, root = certificates(tmp_path)
    sign(kit, key=private, certificate=leaf, chain=[root])
    check, digest = kit_check(kit, monkeypatch), open_bundle(kit).digest
    at(monkeypatch, signatures, days)
    at(monkeypatch, check, days)
    if held:
        open_bundle(kit, trust=root)
        check.check_signature(kit, digest, root, None)
        return
    with pytest.raises(BundleError, match=r"valid from \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, today is"):
        open_bundle(kit, trust=root)
    with pytest.raises(check.CannotRun, match=r"valid from \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, this device's"):
        check.check_signature(kit, digest, root, None)


def test_an_issuer_that_is_no_longer_valid_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, leaf, root = certificates(tmp_path, root_days=(-1, 3))
    sign(bundle, key=private, certificate=leaf, chain=[root])
    assert open_bundle(bundle.path, trust=root)
    at(monkeypatch, signatures, 5)
    with pytest.raises(BundleError, match="have it signed by a new one"):
        open_bundle(bundle.path, trust=root)


def test_what_cannot_sign_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    private, public = keys(tmp_path, password=b"secret")
    for options, said in (
        ({}, "neither was given"),
        ({"key": private, "pkcs11": "pkcs11:token=x"}, "both were given"),
        ({"key": private, "chain": [public]}, "belongs to a certificate"),
        ({"key": tmp_path / "nowhere.pem"}, "no such file"),
        ({"key": public}, "the key cannot sign"),
        ({"key": private, "certificate": tmp_path}, "no such file"),
        ({"pkcs11": "pkcs11:token=x", "certificate": Path("/dev/zero")}, "no such file"),
        ({"key": private}, "the key cannot sign"),
        ({"key": private, "password": "wrong"}, "the key cannot sign"),
        ({"key": private, "password": "secret", "out": bundle.path / "x.sig"}, "lies in the bundle"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            sign(bundle, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    sign(bundle, key=private, password="secret")
    assert open_bundle(bundle.path, trust=public)


def test_without_the_package_it_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = keys(tmp_path)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingRuntime, match=r"pip install 'edgepath\[sign\]'"):
        sign(bundle, key=private)


@pytest.fixture
def kit(bundle: Bundle, tmp_path: Path) -> Path:
    """kit/check.py in its own bundle."""
    source = Path(__file__).resolve().parents[2] / "export" / "kit" / "check.py"
    with BundleWriter(tmp_path / "kit-bundle") as writer:
        fill(writer.path)
        shutil.copyfile(source, writer.path / "kit" / "check.py")
        values = manifest()
        values["recipe"]["accept"] = {"cosine_mean": 0.5}
        writer.commit(values)
    return tmp_path / "kit-bundle"


def test_the_kit_refuses_what_is_not_signed_before_it_runs_anything(kit: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")

    def said(*arguments: str | Path) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [sys.executable, kit / "kit" / "check.py", "--out", tmp_path / "report.json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 2, done
        return done.stderr

    assert "the bundle is not signed" in said("--trust", public)
    sign(kit, key=private)
    assert "signature is not by other.pub" in said("--trust", other)
    assert "signature" not in said("--trust", public)  # and goes on to kit/device.py, which this kit has not
    rewrite(open_bundle(kit), lambda values: values.update(cautions=["all is well"]))
    assert "signature is not by key.pub" in said("--trust", public)


def test_the_kit_says_so_where_it_cannot_verify(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = kit_check(kit, monkeypatch)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(check.CannotRun, match="--trust needs model-signing"):
        check.check_signature(kit, "0" * 64, tmp_path / "key.pub", None)


def test_unsigned_bundles_open_as_before(bundle: Bundle) -> None:
    assert open_bundle(bundle.path).digest == bundle.digest
    (bundle.path / "bundle.json").write_text("{}")
    assert "schema" in refused(bundle.path)
