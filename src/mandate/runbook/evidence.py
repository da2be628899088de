"""evidence.json: a signed statement over every file of a run directory, and its offline verification.

Format: an in-toto Statement v1 (https://github.com/in-toto/attestation) in a DSSE envelope
(https://github.com/secure-systems-lab/dsse), signed with Ed25519. The signature shows that the files are
what they were when the holder of the key signed them. The public key travels in the statement itself, so
by itself it does not show who that was: for that, compare its fingerprint or verify with `--key`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mandate.errors import UsageError
from mandate.runbook import signing
from mandate.runbook.checklist import checklist, criteria, evidence_of, ticked
from mandate.runbook.record import RunRecord, Tick

__all__ = [
    "FileDigest",
    "Problem",
    "Verification",
    "bundle",
    "checklist",
    "criteria",
    "examine",
    "inventory",
    "ticked",
    "verify_bundle",
]

BUNDLE_NAME = "evidence.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:mandate:migration-run:v1"
MAX_BUNDLE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class FileDigest:
    """A file of a run directory: its path in there with forward slashes, its size and its SHA-256.

    Of a symbolic link, the digest is of the target's name; `size` is the length of that name.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Problem:
    """One reason not to trust a run directory. `name` is the file it is about."""

    kind: Literal["format", "signature", "key", "changed", "missing", "added"]
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.detail}"


@dataclass(frozen=True)
class Verification:
    """The outcome of `examine`: whose key signed, how many files it covers, and what is wrong."""

    bundle: Path
    problems: tuple[Problem, ...]
    files: int = 0
    key_fingerprint: str | None = None
    key_given: bool = False
    predicate: Mapping[str, Any] | None = None


def inventory(directory: Path, *, leave_out: frozenset[str] = frozenset({BUNDLE_NAME})) -> list[FileDigest]:
    """Every file below `directory` but those left out, by name. Reads them all, in constant memory."""
    found = (_digest(directory, path) for path in _files(directory))
    return sorted((one for one in found if one.name not in leave_out), key=lambda one: one.name)


def _files(directory: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(directory, onerror=_unreadable):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(parent) / name
            if path.is_symlink() or path.is_file():
                yield path


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error


def _digest(directory: Path, path: Path) -> FileDigest:
    name = path.relative_to(directory).as_posix()
    if path.is_symlink():
        target = os.fsencode(path.readlink())
        return FileDigest(name, len(target), hashlib.sha256(target).hexdigest())
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return FileDigest(name, file.tell(), digest.hexdigest())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def bundle(run_dir: Path, record: RunRecord, key_path: Path | None = None) -> Path:
    """Seal `run_dir`: write evidence.json over all of its files, replacing an earlier one atomically.

    `key_path` is a PEM file with an Ed25519 private key; without it the user's own key is used, and made
    the first time. Nothing else in the directory may change afterwards. Raises UsageError.
    """
    path = run_dir / BUNDLE_NAME
    temporary = run_dir / f"{BUNDLE_NAME}.tmp"
    temporary.unlink(missing_ok=True)
    key = signing.private_key(key_path)
    envelope = _envelope(_statement(inventory(run_dir), record, key.public_key()), key)
    with temporary.open("wb") as file:
        file.write(envelope)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _statement(files: list[FileDigest], record: RunRecord, key: Ed25519PublicKey) -> bytes:
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": file.name, "digest": {"sha256": file.sha256}, "annotations": {"bytes": file.size}}
            for file in files
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(record, key),
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _predicate(record: RunRecord, key: Ed25519PublicKey) -> dict[str, Any]:
    backup = record.step("backup")
    figures = evidence_of(backup) if backup else {}
    return {
        "run": record.run_id,
        "migration": record.migration,
        "database": record.database,
        "host": record.host,
        "operator": record.operator,
        "status": record.status,
        "exit_code": record.exit_code,
        "started_at": _iso(record.started_at),
        "finished_at": _iso(record.finished_at),
        "mandate_version": record.mandate_version,
        "server_version": record.server_version,
        "backup_sha256": figures.get("sha256"),
        "checklist": [_tick(tick) for tick in checklist(record)],
        "criteria": [_tick(tick) for tick in criteria(record)],
        "signer": {
            "public_key": signing.public_pem(key),
            "fingerprint": signing.fingerprint(key),
            "meaning": "the files are unchanged since the holder of this key signed; nothing more",
        },
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _tick(tick: Tick) -> dict[str, Any]:
    return {"text": tick.text, "ticked": tick.ticked, "because": tick.because}


def _envelope(payload: bytes, key: Ed25519PrivateKey) -> bytes:
    signature = key.sign(_pre_authentication(PAYLOAD_TYPE, payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": signing.fingerprint(key.public_key()),
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }
    return json.dumps(envelope, indent=1).encode() + b"\n"


def _pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """DSSE's PAE: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def verify_bundle(path: Path, public_key: Path | None = None) -> list[Problem]:
    """Everything that is wrong with a run directory (or its evidence.json); empty when nothing is."""
    return list(examine(path, public_key).problems)


def examine(path: Path, public_key: Path | None = None) -> Verification:
    """Check signature and files offline. Raises UsageError when there is nothing to check."""
    target = path / BUNDLE_NAME if path.is_dir() else path
    given = signing.public_key(public_key) if public_key else None
    raw = _read(target)
    try:
        payload, signatures = _open_envelope(raw)
        statement = _open_statement(payload)
        key = given or _embedded_key(statement)
    except _Malformed as error:
        return Verification(target, (Problem("format", target.name, str(error)),))
    fingerprint = signing.fingerprint(key)
    problems = _check_signature(payload, signatures, key, target.name, given is not None)
    if not problems:
        problems = _compare(statement, target)
    return Verification(
        target,
        tuple(problems),
        len(statement["subject"]),
        fingerprint,
        given is not None,
        statement["predicate"] if not problems or problems[0].kind != "signature" else None,
    )


class _Malformed(ValueError):
    """evidence.json is not what `bundle` writes."""


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise UsageError(f"{path} is larger than an evidence bundle can be")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            hint="give a run directory or its evidence.json",
        ) from error


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise _Malformed(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise _Malformed(f"{what} is not a JSON object")
    return value


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise _Malformed("payload or signature is not base64") from None


def _open_envelope(raw: bytes) -> tuple[bytes, list[bytes]]:
    envelope = _object(raw, "the envelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise _Malformed(f"payloadType is not {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise _Malformed("there is no signature")
    found = [_base64(one.get("sig")) for one in signatures if isinstance(one, dict)]
    return _base64(envelope.get("payload")), found


def _open_statement(payload: bytes) -> dict[str, Any]:
    statement = _object(payload, "the statement")
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PREDICATE_TYPE:
        raise _Malformed("the statement is not about a migration run")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or not all(_is_subject(one) for one in subjects):
        raise _Malformed("the statement names no files")
    twice = [name for name, count in Counter(one["name"] for one in subjects).items() if count > 1]
    if twice:
        raise _Malformed(f"the statement names {shown(twice[0])} twice")
    if not isinstance(statement.get("predicate"), dict):
        raise _Malformed("the statement has no predicate")
    return statement


def _is_subject(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    digest = value.get("digest")
    return isinstance(digest, dict) and isinstance(digest.get("sha256"), str)


def _embedded_key(statement: Mapping[str, Any]) -> Ed25519PublicKey:
    signer = statement["predicate"].get("signer")
    pem = signer.get("public_key") if isinstance(signer, dict) else None
    try:
        return signing.parse_public(str(pem).encode())
    except ValueError:
        raise _Malformed("the statement carries no Ed25519 public key") from None


def _check_signature(
    payload: bytes, signatures: list[bytes], key: Ed25519PublicKey, name: str, given: bool
) -> list[Problem]:
    for signature in signatures:
        try:
            key.verify(signature, _pre_authentication(PAYLOAD_TYPE, payload))
        except InvalidSignature:
            continue
        return []
    if given:
        return [Problem("key", name, f"not signed by the given key {signing.fingerprint(key)[:16]}")]
    return [Problem("signature", name, "the signature does not match: the statement was altered")]


def _compare(statement: Mapping[str, Any], bundle_path: Path) -> list[Problem]:
    """Names are only compared with what is in the directory, so no path of the statement is opened."""
    signed = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    there = {
        file.name: file.sha256
        for file in inventory(bundle_path.absolute().parent, leave_out=frozenset({bundle_path.name}))
    }
    problems = []
    for name in sorted(signed.keys() | there.keys()):
        if name not in there:
            problems.append(Problem("missing", shown(name), "signed, and not there any more"))
        elif name not in signed:
            problems.append(Problem("added", shown(name), "there, and not signed"))
        elif signed[name] != there[name]:
            detail = f"sha256 is {there[name][:16]}…, signed was {signed[name][:16]}…"
            problems.append(Problem("changed", shown(name), detail))
    return problems


def shown(name: str) -> str:
    """A file name that can be printed whatever bytes it is made of."""
    return name if name.isprintable() else name.encode("unicode_escape", "backslashreplace").decode()
