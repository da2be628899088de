"""The Ed25519 key that signs evidence: made once per user, readable by that user alone."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from platformdirs import user_data_path

from mandate.errors import UsageError

KEY_NAME = "evidence-ed25519.pem"


def default_key_path() -> Path:
    """Where the user's own signing key lives; its public half lies beside it as .pub.pem."""
    return user_data_path("mandate") / "keys" / KEY_NAME


def private_key(path: Path | None = None) -> Ed25519PrivateKey:
    """The configured key, else the user's own, made the first time.

    Raises UsageError when it is missing, unreadable, not Ed25519, encrypted, or open to others.
    """
    chosen = path or default_key_path()
    if path is None and not chosen.exists():
        _make(chosen)
    return _load_private(chosen)


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        _link_unless_there(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    public = public_pem(_load_private(path).public_key())
    path.with_suffix(".pub.pem").write_text(public, "ascii")


def _link_unless_there(temporary: Path, path: Path) -> None:
    """Two first runs at once: the second uses the key of the first."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return


def _load_private(path: Path) -> Ed25519PrivateKey:
    raw = _read(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"signing key {path} can be read by others", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(raw, password=None)
    except TypeError:
        raise UsageError(f"signing key {path} needs a passphrase", hint="use a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _not_ed25519(path) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_ed25519(path)
    return key


def _not_ed25519(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not an Ed25519 key in PEM form",
        hint="openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"key {path} cannot be read: {error.strerror}") from error


def public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key from a PEM file. Raises UsageError."""
    try:
        return parse_public(_read(path))
    except ValueError:
        raise _not_ed25519(path) from None


def parse_public(pem: bytes) -> Ed25519PublicKey:
    """An Ed25519 public key from PEM text. Raises ValueError."""
    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError("unsupported key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> str:
    """SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the DER SubjectPublicKeyInfo, in hex (`openssl pkey -pubin -outform DER | sha256sum`)."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def own_fingerprint() -> str | None:
    """The fingerprint of the user's own key; None when there is none (none is made for the asking)."""
    path = default_key_path().with_suffix(".pub.pem")
    return fingerprint(public_key(path)) if path.is_file() else None
