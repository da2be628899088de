"""The signed bundle: whatever is changed, removed or added afterwards is named."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests import report_records as records

from mandate.errors import UsageError
from mandate.runbook import evidence, signing

RECORD = records.complete()


def _key(path: Path, key: Any = None) -> Path:
    key = key or Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def _public(private: Path) -> Path:
    path = private.with_suffix(".pub")
    path.write_text(signing.public_pem(signing.private_key(private).public_key()))
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return _key(tmp_path / "key.pem")


@pytest.fixture
def run_dir(tmp_path: Path, key: Path) -> Path:
    """A sealed run directory with a subdirectory, a link and an awkward name."""
    directory = tmp_path / "run dir"
    (directory / "written_since").mkdir(parents=True)
    (directory / "run.json").write_text("{}")
    (directory / "check.txt").write_text("=== CHECK 1 ===\n")
    (directory / "written_since" / "decision_events.jsonl").write_bytes(b"\x00\xff" * 5000)
    (directory / "näme\nwith\x1b[31m newline").write_text("x")
    (directory / os.fsdecode(b"not-utf8-\xff")).write_text("y")
    (directory / "latest").symlink_to("check.txt")
    evidence.bundle(directory, RECORD, key)
    return directory


def _kinds(path: Path, public: Path | None = None) -> list[tuple[str, str]]:
    return [(problem.kind, problem.name) for problem in evidence.verify_bundle(path, public)]


def test_an_untouched_directory_holds(run_dir: Path, key: Path) -> None:
    assert evidence.verify_bundle(run_dir) == []
    assert evidence.verify_bundle(run_dir / "evidence.json", _public(key)) == []
    found = evidence.examine(run_dir)
    assert found.files == 6
    assert found.predicate is not None
    assert found.predicate["run"] == RECORD.run_id
    assert "nothing more" in found.predicate["signer"]["meaning"]


def test_it_is_an_in_toto_statement_in_a_dsse_envelope(run_dir: Path, key: Path) -> None:
    """Read by hand, as the two specifications say."""
    envelope = json.loads((run_dir / "evidence.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:mandate:migration-run:v1"
    kind = envelope["payloadType"]
    assert kind == "application/vnd.in-toto+json"
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (signature,) = envelope["signatures"]
    public = signing.private_key(key).public_key()
    public.verify(base64.b64decode(signature["sig"]), signed)
    assert signature["keyid"] == signing.fingerprint(public)


def test_sha256sum_agrees(run_dir: Path) -> None:
    listed = {one.name: one.sha256 for one in evidence.inventory(run_dir)}
    said = subprocess.run(
        ["sha256sum", "written_since/decision_events.jsonl"],
        cwd=run_dir, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.split()[0] == listed["written_since/decision_events.jsonl"]


def test_changed_missing_and_added_files_are_named(run_dir: Path) -> None:
    with (run_dir / "written_since" / "decision_events.jsonl").open("r+b") as file:
        file.seek(4321)
        file.write(b"!")
    (run_dir / "check.txt").unlink()
    (run_dir / "written_since" / "extra").write_text("")
    (run_dir / "latest").unlink()
    (run_dir / "latest").symlink_to("run.json")
    assert _kinds(run_dir) == [
        ("missing", "check.txt"),
        ("changed", "latest"),
        ("changed", "written_since/decision_events.jsonl"),
        ("added", "written_since/extra"),
    ]


def test_names_are_shown_harmless(run_dir: Path) -> None:
    for path in run_dir.glob("n*"):
        path.unlink()
    names = [str(problem) for problem in evidence.verify_bundle(run_dir)]
    assert len(names) == 2
    assert all(name.isprintable() for name in names)
    assert "\\x1b" in names[1] + names[0]


def _edit(run_dir: Path, change: Any) -> None:
    path = run_dir / "evidence.json"
    envelope = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(envelope, statement)
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(envelope))


def test_an_edited_statement_is_noticed(run_dir: Path) -> None:
    def edit(_envelope: Any, statement: Any) -> None:
        statement["predicate"]["status"] = "failed"

    _edit(run_dir, edit)
    found = evidence.examine(run_dir)
    assert [problem.kind for problem in found.problems] == ["signature"]
    assert found.predicate is None


def test_resealing_with_another_key_is_what_the_given_key_catches(run_dir: Path, key: Path) -> None:
    """Without a key to compare with, a forger can sign again: only --key or the fingerprint shows it."""
    (run_dir / "check.txt").write_text("forged")
    evidence.bundle(run_dir, RECORD, _key(run_dir.parent / "other.pem"))
    assert evidence.verify_bundle(run_dir) == []
    assert [kind for kind, _ in _kinds(run_dir, _public(key))] == ["key"]


def test_sealing_again_covers_what_came_since(run_dir: Path, key: Path) -> None:
    (run_dir / "report.html").write_text("later")
    assert _kinds(run_dir) == [("added", "report.html")]
    (run_dir / "evidence.json.tmp").write_text("of a run that was killed")
    evidence.bundle(run_dir, RECORD, key)
    assert _kinds(run_dir) == []
    assert not (run_dir / "evidence.json.tmp").exists()


def test_a_name_that_climbs_out_is_never_opened(run_dir: Path, key: Path) -> None:
    """A statement is hostile until proven: its names are compared, not followed."""
    secret = run_dir.parent / "secret"
    os.mkfifo(secret)  # opening it would block for ever

    def climb(_envelope: Any, statement: Any) -> None:
        statement["subject"].append({"name": "../secret", "digest": {"sha256": "0" * 64}})

    _edit(run_dir, climb)
    envelope = json.loads((run_dir / "evidence.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    envelope["signatures"][0]["sig"] = base64.b64encode(signing.private_key(key).sign(pae)).decode()
    (run_dir / "evidence.json").write_text(json.dumps(envelope))
    assert _kinds(run_dir) == [("missing", "../secret")]


_ENVELOPE = b'{"payloadType": "application/vnd.in-toto+json", "payload": %b, "signatures": %b}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"payloadType": "text/plain"}',
        _ENVELOPE % (b'"e30="', b"[]"),
        _ENVELOPE % (b'"%%"', b'[{"sig": "AA=="}]'),
        _ENVELOPE % (b"7", b'[{"sig": "AA=="}]'),
        _ENVELOPE % (b'"e30="', b'[{"sig": 4}]'),
        _ENVELOPE % (b'"e30="', b'[{"sig": "AA=="}]'),
    ],
)
def test_a_malformed_bundle_is_a_problem_and_not_a_crash(run_dir: Path, raw: bytes) -> None:
    (run_dir / "evidence.json").write_bytes(raw)
    assert [kind for kind, _ in _kinds(run_dir)] == ["format"]


def test_the_same_file_twice_is_malformed(run_dir: Path) -> None:
    _edit(run_dir, lambda _envelope, statement: statement["subject"].append(statement["subject"][0]))
    assert [kind for kind, _ in _kinds(run_dir)] == ["format"]


def test_nothing_to_check_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        evidence.verify_bundle(tmp_path)


def test_the_users_own_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    first, second = signing.private_key(), signing.private_key()
    path = signing.default_key_path()
    assert path.is_relative_to(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert signing.fingerprint(first.public_key()) == signing.fingerprint(second.public_key())
    assert signing.own_fingerprint() == signing.fingerprint(first.public_key())
    assert sorted(item.name for item in path.parent.iterdir()) == [
        "evidence-ed25519.pem",
        "evidence-ed25519.pub.pem",
    ]


def test_keys_that_cannot_sign_are_refused(tmp_path: Path, key: Path) -> None:
    missing = tmp_path / "missing.pem"
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    garbage.chmod(0o600)
    other = _key(tmp_path / "ec.pem", generate_private_key(SECP256R1()))
    secret = tmp_path / "secret.pem"
    secret.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        )
    )
    secret.chmod(0o600)
    readable = _key(tmp_path / "readable.pem")
    readable.chmod(0o644)
    reasons = {
        missing: "cannot be read",
        garbage: "not an Ed25519 key",
        other: "not an Ed25519 key",
        secret: "passphrase",
        readable: "read by others",
    }
    for path, reason in reasons.items():
        with pytest.raises(UsageError, match=reason):
            signing.private_key(path)
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        signing.public_key(garbage)
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        signing.public_key(key)
