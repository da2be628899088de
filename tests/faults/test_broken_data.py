"""Data that the pre-checks refuse, through the conductor: stopped with 3, explained, mended by pasting."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from tests import conducting
from tests.conducting import seeded, version
from tests.servers import DatabaseFactory

from mandate.postgres.connection import Target, connect
from mandate.runbook import journal

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>alert(1)</script>",
    "O'Brien",
    'quo"te',
    "back\\slash",
    "new\nline",
    "\x1b[31mred",
    "[red]markup[/red]",
    "${x} $(id) %s {0}",
    "   ",
    "日本語",
)


def add_domains(target: Target, *names: str) -> None:
    with connect(target) as session:
        organization = session.value("SELECT organization_id FROM mandate.organizations ORDER BY 1 LIMIT 1")
        for name in names:
            session.execute(
                "INSERT INTO mandate.domains (domain_id, organization_id, name) VALUES (%s, %s, %s)",
                (uuid.uuid4(), organization, name),
            )


def proposed(text: str) -> str:
    """What the operator would paste into 008.toml."""
    lines = text.splitlines()
    start = lines.index("     [domains]")
    end = next(place for place in range(start, len(lines)) if "Or let the file" in lines[place])
    return "\n".join(line.removeprefix("     ") for line in lines[start:end])


def test_hostile_names_are_mended_by_pasting_what_diagnose_proposes(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with connect(target) as session:
        taken = str(session.value("SELECT name FROM mandate.domains ORDER BY organization_id, name LIMIT 1"))
    add_domains(target, *HOSTILE, taken.upper(), taken.title())
    done = conducting.run(target, tmp_path)
    assert done.code == 3
    assert version(target) == 7
    with connect(target) as session:
        record = journal.load_record(session, migration="008")
    assert record is not None
    stopped = record.step("stop")
    assert stopped is not None
    assert stopped.status == "pending", "services are not stopped for data that cannot be migrated"
    told = conducting.command(target, tmp_path, "diagnose", "008")
    assert told.code == 9
    assert "\x1b" not in told.stdout, "data does not reach the terminal as a command to it"
    (tmp_path / "008.toml").write_text(proposed(told.stdout), "utf-8")
    again = conducting.run(target, tmp_path)
    assert again.code == 0, again.stdout
    page = (Path(record.directory) / "report.html").read_text("utf-8")
    assert "<script>alert(1)" not in page


def test_ten_thousand_bad_names_are_counted_and_all_of_them_proposed(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    with connect(target) as session:
        session.execute(
            "INSERT INTO mandate.domains (domain_id, organization_id, name)"
            " SELECT gen_random_uuid(), o.organization_id, 'Bad Name ' || i FROM generate_series(1, 10000) i,"
            " (SELECT organization_id FROM mandate.organizations ORDER BY 1 LIMIT 1) o"
        )
    done = conducting.run(target, tmp_path, "--yes", "--no-rehearsal", "--format", "json")
    assert done.code == 3
    assert len(done.stdout) < 1_000_000, "rows are shown up to a limit"
    told = conducting.command(target, tmp_path, "diagnose", "008", "--format", "json")
    finding = next(f for f in told.json["findings"] if f["check"]["id"] == "domain_name_not_slug")
    assert finding["check"]["result"] == "10000"
    assert len(finding["mapping"].splitlines()) == 10_001
    assert json.dumps("bad-name-10000") in finding["mapping"]
