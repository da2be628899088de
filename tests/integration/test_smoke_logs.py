"""The log scan: only what was appended, through rotation, and never a silent pass."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mandate.runbook import logs


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "mandate-serve.log"
    file.write_text("an old ERROR that nobody minds\nsecond line\n")
    return file


def append(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


def found(scan: logs.Scan) -> list[tuple[str, int]]:
    return [(Path(one.file).name, one.line) for one in scan.findings]


def test_only_appended_lines_count(log: Path) -> None:
    marks = logs.mark([f"{log.parent}/*.log"])
    append(log, "fine\nConnection FAILED\nNullPointerException\n")
    scan = logs.scan([f"{log.parent}/*.log"], json.loads(json.dumps(marks)))
    assert found(scan) == [("mandate-serve.log", 4), ("mandate-serve.log", 5)]
    assert scan.findings[0].text == "Connection FAILED"
    assert (scan.lines, scan.found, scan.warnings) == (3, 2, [])


def test_agrees_with_the_guides_grep(log: Path) -> None:
    lines = ["Error", "eXception", "failover", "all good", "terror", "ERR", ""]
    marks = logs.mark([str(log)])
    append(log, "\n".join(lines) + "\n")
    assert [one.line - 2 for one in logs.scan([str(log)], marks).findings] == [1, 2, 3, 5]


def test_nothing_appended_is_clean_and_counted(log: Path) -> None:
    scan = logs.scan([str(log)], logs.mark([str(log)]))
    assert (scan.files, scan.lines, scan.found, scan.warnings) == ([str(log)], 0, 0, [])


def test_no_matching_file_is_a_warning(tmp_path: Path) -> None:
    for pattern in (f"{tmp_path}/*.log", f"{tmp_path}/no/such/dir/x.log"):
        scan = logs.scan([pattern], logs.mark([pattern]))
        assert scan.files == []
        assert scan.warnings == [f"no log file matches {pattern}: nothing of it was scanned"]


def test_a_file_that_appeared_is_read_whole(log: Path) -> None:
    marks = logs.mark([f"{log.parent}/*.log"])
    (log.parent / "worker.log").write_text("error at birth\n")
    assert found(logs.scan([f"{log.parent}/*.log"], marks)) == [("worker.log", 1)]


@pytest.mark.parametrize("rotated", ["mandate-serve.log.1", "mandate-serve-20260131.log"])
def test_rotation_by_rename_reads_both_ends(log: Path, rotated: str) -> None:
    pattern = f"{log.parent}/*.log"
    marks = logs.mark([pattern])
    append(log, "failed before rotation\n")
    log.rename(log.with_name(rotated))
    log.write_text("fine\nfailed after rotation\n")
    scan = logs.scan([pattern], marks)
    assert sorted(found(scan)) == sorted([(rotated, 3), ("mandate-serve.log", 2)])
    assert scan.warnings == []


def test_rotation_by_copy_and_truncate_reads_both_ends(log: Path) -> None:
    marks = logs.mark([str(log)])
    append(log, "failed before rotation\n")
    shutil.copy(log, log.with_name("mandate-serve.log.1"))
    os.truncate(log, 0)
    append(log, "failed after rotation, and more text than there was before: " + "x" * 200 + "\n")
    scan = logs.scan([str(log)], marks)
    assert sorted(found(scan)) == [("mandate-serve.log", 1), ("mandate-serve.log.1", 3)]
    assert scan.warnings == []


def test_rotation_out_of_sight_is_a_warning(log: Path) -> None:
    marks = logs.mark([str(log)])
    append(log, "failed, and nobody will see\n")
    with gzip.open(log.with_name("mandate-serve.log.1.gz"), "wb") as packed:
        packed.write(log.read_bytes())
    log.unlink()
    log.write_text("fine\n")
    scan = logs.scan([str(log)], marks)
    assert scan.found == 0
    assert len(scan.warnings) == 1
    assert "was rotated or truncated meanwhile" in scan.warnings[0]


def test_a_deleted_file_is_a_warning(log: Path) -> None:
    marks = logs.mark([str(log)])
    log.unlink()
    warnings = logs.scan([str(log)], marks).warnings
    assert len(warnings) == 2
    assert "no log file matches" in warnings[0]


def test_an_empty_file_that_grows(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    file.touch()
    marks = logs.mark([str(file)])
    append(file, "error\n")
    assert found(logs.scan([str(file)], marks)) == [("x.log", 1)]


def test_without_marks_timestamps_decide(log: Path) -> None:
    start = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
    before, after = start - timedelta(seconds=1), start + timedelta(seconds=1)
    log.write_text(
        json.dumps({"timestamp": before.isoformat(), "event": "error long ago"})
        + "\nTraceback of an error without a time belongs to the line above\n"
        + json.dumps({"event": "it failed", "time": after.timestamp()})
        + "\n2026-01-31T01:59:59Z error in plain text, old\n"
        + "2026-01-31 02:00:05,123 error in plain text, new\n"
        + "[2026-01-31T03:00:05+02:00] error in another zone, old\n"
    )
    assert found(logs.scan([str(log)], None, start)) == [("mandate-serve.log", 3), ("mandate-serve.log", 5)]


def test_without_marks_an_untouched_file_is_old(log: Path) -> None:
    os.utime(log, (1_000_000, 1_000_000))
    scan = logs.scan([str(log)], None, datetime(2026, 1, 31, tzinfo=UTC))
    assert (scan.files, scan.lines, scan.found) == ([str(log)], 0, 0)


def test_hostile_content(log: Path) -> None:
    marks = logs.mark([str(log)])
    with log.open("ab") as out:
        out.write(b"\xff\xfe\x00 binary error \x80\n")
        out.write(b'{"timestamp": ' + b"[" * 100_000 + b"\n")
        out.write(b"no newline at the end, failure")
    scan = logs.scan([str(log)], marks)
    assert found(scan) == [("mandate-serve.log", 3), ("mandate-serve.log", 5)]
    assert logs.scan([str(log)], None, datetime(2026, 1, 1, tzinfo=UTC)).found == 3


def test_a_huge_line_keeps_its_number_and_a_flood_is_counted(log: Path) -> None:
    marks = logs.mark([str(log)])
    append(log, "x" * 300_000 + " error\n" + "error\n" * 500)
    scan = logs.scan([str(log)], marks)
    assert scan.findings[0].line == 3
    assert scan.findings[1].line == 4
    assert scan.found == 501
    assert len(scan.findings) == logs.KEPT_FINDINGS
    assert all(len(one.text) <= 300 for one in scan.findings)


def test_directories_and_special_characters(tmp_path: Path) -> None:
    (tmp_path / "dir.log").mkdir()
    odd = tmp_path / "a [x] b.log"
    odd.write_text("error\n")
    scan = logs.scan([f"{tmp_path}/*.log"], {})
    assert found(scan) == [("a [x] b.log", 1)]
