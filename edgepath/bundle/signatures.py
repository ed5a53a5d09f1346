"""A bundle's signature, `<bundle>.sig` beside it: OpenSSF's model signing (a Sigstore bundle of an in-toto statement).

It lists the sha256 of every file. What is relied on is that of `bundle.json`, which has those of all others.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import BundleError, MissingRuntime, UsageError, first_line
from ..machine.packages import pip_install, require
from ..machine.tables import parse_json, read_json
from ..machine.writing import replacing
from .manifest import MANIFEST

_LARGEST = 16 << 20


def signature_file(bundle: Path) -> Path:
    """Return where a bundle's signature lies unless said otherwise."""
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}.sig")


def write_signature(
    bundle: Path,
    out: Path,
    *,
    key: Path | None,
    password: str | None,
    certificate: Path | None,
    chain: Sequence[Path],
    pkcs11: str,
) -> None:
    """Sign the files of a bundle, whose hashes were checked. Raises UsageError for a key that cannot sign."""
    library = _library()
    if pkcs11:
        if not pkcs11.startswith("pkcs11:"):
            raise UsageError(f"sign {bundle}: a token's URI begins with pkcs11: (lower case); give one that does")
        require("pykcs11", "pkcs11")
    problem = _sign(library.signing.Config(), bundle, out, key, password, certificate, chain, pkcs11)
    for secret in _secrets(pkcs11):
        problem = problem.replace(secret, "***")
    if problem and pkcs11 and "pin-" not in pkcs11:
        problem += " without its token's PIN (pin-source=FILE in the URI)"
    if problem:  # raised here, as an error keeps what it came from, and with that a token would stay logged in
        raise UsageError(f"sign {bundle}: the key cannot sign {problem}; give one as `edgepath sign --help` says")


def _secrets(pkcs11: str) -> list[str]:
    """Return what of a token's URI no message may quote: the URI, and its PIN as written and as read; longest first."""
    pins = {part.partition("=")[2] for part in re.split("[?&;]", pkcs11) if part.startswith("pin-")}
    return sorted(filter(None, {pkcs11, *pins, *map(unquote, pins)}), key=len, reverse=True)


def _sign(
    config: Any,
    bundle: Path,
    out: Path,
    key: Path | None,
    password: str | None,
    certificate: Path | None,
    chain: Sequence[Path],
    pkcs11: str,
) -> str:
    """Sign, and return why the key cannot, "" where it did. Raises UsageError for a file that cannot be written."""
    try:
        if certificate is not None:
            _check_dates(_pem(certificate))
        if pkcs11 and certificate is not None:
            config.use_pkcs11_certificate_signer(
                pkcs11_uri=pkcs11, signing_certificate=certificate, certificate_chain=chain
            )
            _write_certificates_as_base64(config)
        elif pkcs11:
            config.use_pkcs11_signer(pkcs11_uri=pkcs11)
        elif certificate is not None:
            config.use_certificate_signer(private_key=key, signing_certificate=certificate, certificate_chain=chain)
        else:
            # The library hands the password to `cryptography`, which takes bytes.
            config.use_elliptic_key_signer(private_key=key, password=password.encode() if password else None)
        with replacing(out, "signature") as partial:
            config.sign(bundle, partial)
    except UsageError:
        raise
    except Exception as error:  # of cryptography, OpenSSL, PKCS#11 and the library
        return f"({first_line(error if str(error) else error.__cause__ or error)})"
    return ""


def _check_dates(certificate: Any) -> None:
    """Raise ValueError for a certificate that is not valid today, which the library takes."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= (today := datetime.now(timezone.utc)) <= last:
        raise ValueError(
            f"its certificate is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, today is {today:%Y-%m-%d}"
        )


def _pem(path: Path) -> Any:
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes())


def _write_certificates_as_base64(config: Any) -> None:
    """Have a token's signer write certificates as the signer of files does; that of model-signing 1.1.1 fails."""
    from model_signing._signing.sign_certificate import Signer

    type(config._signer)._get_verification_material = Signer._get_verification_material


def check_signature(bundle: Path, digest: str, trust: Path, signature: Path | None = None) -> None:
    """See that whoever has the private key of `trust`, a public key or certificate (PEM), signed this `bundle.json`.

    `digest` is its sha256. Raises BundleError for a bundle that is not signed, or by another key, or was changed, and
    for one signed by a certificate that is not valid today: the signature holds no time that tells when it was made.
    """
    who, path = f"bundle {bundle}", signature or signature_file(bundle)
    config = _library().verifying.Config()
    if not path.is_file():
        raise BundleError(f"{who}: it is not signed ({path} is not there); get its signature, or leave out the key")
    try:
        if trust.exists() and not trust.is_file():
            raise ValueError("not a regular file")  # a device may have no end
        if by_certificate := b"CERTIFICATE" in trust.read_bytes():
            config.use_certificate_verifier(certificate_chain=[trust])
        else:
            config.use_elliptic_key_verifier(public_key=trust)
    except Exception as error:  # of cryptography and OpenSSL
        raise UsageError(f"key {trust}: no public key or certificate in PEM ({first_line(error)})") from None
    try:
        signed = _signed_manifest(path)
        config.set_ignore_unsigned_files(True).verify(bundle, path)
    except Exception as error:  # whatever a file that is no signature leads the library to
        problem = f"{type(error).__name__}: {first_line(error)}"[:200]
        raise BundleError(f"{who}: its signature is not by {trust.name}, or of another bundle ({problem})") from None
    if signed != digest:
        raise BundleError(f"{who}: its signature is of another {MANIFEST} ({signed[:12]}, this is {digest[:12]})")
    try:
        for certificate in _certificates(path) if by_certificate else ():
            _check_dates(certificate)
    except ValueError as error:
        raise BundleError(f"{who}: {error}; have it signed by a new one, or by a key, which has no dates") from None


def _signed_manifest(path: Path) -> str:
    """Return the sha256 of `bundle.json` that a signature lists; to be believed once the signature was verified."""
    envelope = read_json(path, _LARGEST)["dsseEnvelope"]
    statement = parse_json(base64.b64decode(envelope["payload"], validate=True))
    resources = statement["predicate"]["resources"]
    return next(str(resource["digest"]) for resource in resources if resource["name"] == MANIFEST)


def _certificates(path: Path) -> list[Any]:
    """Return the certificates that a signature lists, the signer's first."""
    from cryptography import x509

    listed = read_json(path, _LARGEST)["verificationMaterial"]["x509CertificateChain"]["certificates"]
    return [x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"])) for each in listed]


def _library() -> Any:
    try:
        import model_signing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingRuntime(f"signatures need model-signing ({error}); {pip_install('sign')}") from None
    return model_signing
