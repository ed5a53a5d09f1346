"""Whoever made or admitted a bundle signs it; the signature lies beside it, for a bundle never changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ..errors import UsageError
from ..machine.writing import check_output
from .bundle import Bundle, open_bundle
from .signatures import signature_file, write_signature


class Signed(TypedDict):
    """What was signed: the bundle's name, the sha256 of its `bundle.json`, and the file of the signature."""

    bundle: str
    digest: str
    signature: str


def sign(
    bundle: str | Path | Bundle,
    *,
    key: str | Path | None = None,
    password: str | None = None,
    certificate: str | Path | None = None,
    chain: Sequence[str | Path] = (),
    pkcs11: str = "",
    out: str | Path | None = None,
    force: bool = False,
) -> Signed:
    """Sign a bundle whose hashes are right, and return what was signed. Nothing is asked of a network.

    Args:
        bundle: the bundle; it stays as it is.
        key: a private key, PEM, on an elliptic curve (P-256, P-384, P-521).
        password: of the key.
        certificate: PEM, of the key; who verifies then trusts its root instead of the key.
        chain: certificates between it and the root.
        pkcs11: the URI of a key in a token (RFC 7512) instead of `key`.
        out: the signature, by default `<bundle>.sig` beside the bundle.
        force: replace a signature that is there.

    Returns:
        The bundle's name, the sha256 of its `bundle.json`, and the file of the signature.

    Raises:
        UsageError: for no key or two, one that cannot sign, or a signature in the way.
        BundleError: for a bundle that was altered.
        MissingRuntime: where model-signing is not installed (extra `sign`).
    """
    if (key is None) == (not pkcs11):
        given = "both were given" if pkcs11 else "neither was given"
        raise UsageError(f"sign: give a private key or the URI of one in a token, one of them; {given}")
    if chain and certificate is None:
        raise UsageError("sign: a chain of certificates belongs to a certificate; give that too")
    opened = open_bundle(bundle)
    path = signature_file(opened.path) if out is None else Path(out)
    if path.resolve().is_relative_to(opened.path.resolve()):
        raise UsageError(f"sign: {path} lies in the bundle, which holds nothing else; write the signature elsewhere")
    check_output(path, force=force)
    for file in (key, certificate, *chain):
        if file is not None and not Path(file).is_file():
            raise UsageError(f"sign: {file}: no such file; give a key or certificate in PEM")
    write_signature(
        opened.path,
        path,
        key=None if key is None else Path(key),
        password=password,
        certificate=None if certificate is None else Path(certificate),
        chain=[Path(issuer) for issuer in chain],
        pkcs11=pkcs11,
    )
    return {"bundle": opened.name, "digest": opened.digest, "signature": str(path)}
