"""Versions told from shapes, and the numbers that people type."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mandate.errors import UnsupportedServer, UsageError
from mandate.runbook import migrations

EVENTS = ("scopes", "policy_snapshots", "decision_events", "verdict_events", "audit_timeline_entries")

Shape = dict[tuple[str, str], str]


def v1() -> Shape:
    return {**{(table, "created_at"): "timestamptz" for table in EVENTS}, ("scopes", "scope_id"): "uuid"}


def v2() -> Shape:
    keys = [(table, "domain_id") for table in (*EVENTS, "domains")]
    return {**v1(), ("domains", "name"): "text", **dict.fromkeys(keys, "uuid")}


def v7() -> Shape:
    return {**v2(), ("mandate_specs", "spec_id"): "text", ("verdict_events", "scope_id"): "uuid"}


def v8() -> Shape:
    kept = {key: type for key, type in v7().items() if key[1] not in ("domain_id", "name")}
    domains = dict.fromkeys([(table, "domain") for table in (*EVENTS, "domains")], "text")
    texts = {("scopes", "scope_id"): "text", ("verdict_events", "scope_id"): "text"}
    return {**kept, **domains, **texts, ("identity_map", "new_key"): "text"}


@pytest.mark.parametrize(
    ("shape", "version"),
    [
        (v1(), 1),
        (v2(), 2),
        ({**v2(), ("mandate_specs", "spec_id"): "text"}, 5),
        (v7(), 7),
        (v8(), 8),
        ({**v7(), ("decision_events", "domain"): "text", ("extra", "x"): "int"}, 7),
        ({}, None),
        ({("domains", "domain"): "text"}, None),
        ({**v8(), ("scopes", "domain_id"): "uuid"}, None),
        ({**v8(), ("domains", "domain_id"): "uuid"}, None),
        ({**v8(), ("scopes", "scope_id"): "uuid"}, None),
        ({**v1(), ("scopes", "domain_id"): "uuid"}, None),
    ],
)
def test_shapes(shape: Shape, version: int | None) -> None:
    assert migrations.version_of_shape(shape) == version


@given(st.sets(st.sampled_from(sorted({**v7(), **v8()})), max_size=40))
def test_any_part_of_a_shape_has_an_answer(keys: set[tuple[str, str]]) -> None:
    shape = {key: {**v7(), **v8()}[key] for key in keys}
    assert migrations.version_of_shape(shape) in (None, 1, 2, 5, 7, 8)


@pytest.mark.parametrize(("text", "version"), [("7", 7), ("007", 7), ("08", 8), ("1", 1)])
def test_versions_that_people_type(text: str, version: int) -> None:
    assert migrations.parse_version(text) == version
    assert migrations.parse_version("newest") is None


@pytest.mark.parametrize(
    "text", ["", "0", "000", "-1", "999", "7.0", "vii", "٧", "7\n", "1" * 5000, "7; DROP"]
)
def test_versions_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match="is not a version"):
        migrations.parse_version(text)


@pytest.mark.parametrize("number", [80400, 90624, 130022, 139999])
def test_old_servers_are_refused(number: int) -> None:
    with pytest.raises(UnsupportedServer, match=f"PostgreSQL {number // 10000} is not supported"):
        migrations.refuse_old_server(number)


@pytest.mark.parametrize("number", [140000, 150004, 180004, 190000])
def test_supported_servers_are_not(number: int) -> None:
    migrations.refuse_old_server(number)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["002_b.sql"],
        ["001_a.sql", "001_b.sql"],
        ["001_a.sql", "003_c.sql"],
        ["README.md", "001_A.SQL"],
    ],
)
def test_a_directory_that_is_no_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text("BEGIN; COMMIT;")
    monkeypatch.setenv("MANDATE_MIGRATIONS_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="each once"):
        migrations.files()


def test_only_numbered_lower_case_files_are_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("001_a.sql", "001_PRE_MIGRATION_CHECKS.sql", "001.toml", "x001_a.sql", "001_a.sql~"):
        (tmp_path / name).write_text("BEGIN; COMMIT;")
    monkeypatch.setenv("MANDATE_MIGRATIONS_DIR", str(tmp_path))
    assert [file.path.name for file in migrations.files()] == ["001_a.sql"]


def test_a_directory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANDATE_MIGRATIONS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no directory of migrations"):
        migrations.directory()
