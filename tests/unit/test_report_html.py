"""The page: nothing from outside, nothing unescaped, every figure there, in every state of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests import report_records as records

from mandate.runbook.evidence import FileDigest
from mandate.runbook.record import RunRecord
from mandate.runbook.report import html

VOID = {"meta", "br", "link", "img", "hr", "input", "col"}
HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>\x1b[31m\u202e{{ 7*7 }}"


class Page(HTMLParser):
    """A strict reading of the page: tags must nest; text, ids and references are kept."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def each(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(params=sorted(records.ALL))
def record(request: pytest.FixtureRequest) -> RunRecord:
    return records.ALL[request.param]()


def test_every_state_makes_a_whole_page(record: RunRecord) -> None:
    page = Page(html.render(record, now=records.START + timedelta(minutes=9)))
    assert [name for name, _ in page.tags].count("h1") == 1
    assert "None" not in page.text.split()
    assert "Undefined" not in page.text
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for link in page.each("a"):
        assert str(link["href"])[1:] in ids, link


def test_the_page_loads_nothing(record: RunRecord) -> None:
    source = html.render(record)
    page = Page(source)
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base"})
    for name, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), (name, attributes)
        for key in ("href", "src", "xlink:href", "action"):
            assert (attributes.get(key) or "#").startswith("#"), (name, attributes)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a for a in page.each("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


HEADLINES = {
    "complete": "Migration 008 is complete",
    "failed_check": "Migration 008 stopped: pre-migration checks failed",
    "failed_verification": "Migration 008 stopped: post-migration verification failed",
    "interrupted": "Migration 008 was interrupted during “Run the migration”",
    "running": "Migration 008 is running",
    "rolled_back": "Migration 008 was rolled back",
}


@pytest.mark.parametrize("name", sorted(records.ALL))
def test_the_verdict_is_the_first_thing_on_the_page(name: str) -> None:
    page = Page(html.render(records.ALL[name]()))
    assert page.text.index(HEADLINES[name]) < page.text.index("What to do next", 400)


def test_a_complete_run_shows_its_figures() -> None:
    text = Page(html.render(records.complete())).text
    for figure in (
        "4,004,578 rows in 8 tables proven equal before and after.",
        "14 of 14 ticked by evidence",
        "8 of 8 met",
        "393.0 MiB",
        "Point of no return, passed at 22:05:14 UTC",
        "60-150 min",
        "2,004,310",
        "23514",
        "http://localhost:3000/api/decisions?domain=finance",
        "212 lines since the run began",
        "restored and compared in 31 s",
    ):
        assert figure in text, figure


def test_a_failed_check_shows_rows_fix_and_state() -> None:
    text = Page(html.render(records.failed_check())).text
    assert "Nothing was changed: the migrating step has not run. The services are still stopped." in text
    assert "Point of no return, not reached" in text
    assert "00000002-0000-4000-8000-000000000000" in text
    assert "psql -f migrations/fixes/008_domain_id_null.sql" in text
    assert "permission denied for schema reporting" in text
    assert "mandate run 008" in text


def test_many_offending_rows_are_cut_with_a_count() -> None:
    page = Page(html.render(records.failed_check(offending=12_345)))
    assert "Offending rows: the first 20 of 12,345" in page.text
    assert page.text.count("mandate.decision_events 0000") == 20
    assert len(html.render(records.failed_check(offending=12_345))) < 100_000


def test_a_rollback_says_what_is_not_there_any_more() -> None:
    text = Page(html.render(records.rolled_back())).text
    assert "The database is back as it was in 36 s" in text
    assert (
        "17 rows written since the backup are not in the database: see the export in written_since." in text
    )
    assert "mandate_before_rollback_20261122t220004_7f3a" in text


def _poison(value: Any) -> Any:
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key: _poison(item) for key, item in value.items()}
    return [_poison(item) for item in value] if isinstance(value, list) else value


def test_hostile_text_everywhere_stays_text() -> None:
    record = records.rolled_back()
    steps = tuple(
        replace(
            step,
            title=step.title + HOSTILE,
            summary=step.summary + HOSTILE,
            warnings=(HOSTILE,),
            evidence=_poison(step.evidence),
            error=_poison(step.error),
        )
        for step in record.steps
    )
    record = replace(record, steps=steps, database=HOSTILE, operator=HOSTILE, host=HOSTILE, title=HOSTILE)
    source = html.render(record, [FileDigest(HOSTILE, 1, "0" * 64)])
    page = Page(source)
    assert {"script", "img"}.isdisjoint(name for name, _ in page.tags)
    assert "<script" not in source
    assert not set(source) & set("\x1b\u202e")
    assert "\\u{202e}" in page.text
    assert "{{ 7*7 }}" in page.text


def test_passwords_are_not_shown() -> None:
    record = records.failed_check()
    step = record.step("check")
    assert step is not None
    error = {
        **(step.error or {}),
        "message": "postgresql://bob:hunter2@db/mandate password=hunter2",
    }
    record = records.change(record, "check", error=error, warnings=("password='hunter2'",))
    assert "hunter2" not in html.render(record)


def test_odd_evidence_does_not_break_the_page() -> None:
    """Evidence of another release, or of a step that died half-way."""
    record = records.complete()
    for odd in (
        {},
        {"checks": None},
        {"checks": "x", "calls": [None], "logs": [], "tables": 3, "services": "x"},
    ):
        for step in record.steps:
            Page(html.render(records.change(record, step.name, evidence=odd)))
    Page(html.render(replace(record, steps=())))


def test_the_same_record_gives_the_same_page() -> None:
    assert html.render(records.complete()) == html.render(records.complete())


def test_the_manifest_leaves_out_the_reports_themselves() -> None:
    files = [FileDigest("check.txt", 10, "a" * 64), FileDigest("report.html", 10, "b" * 64)]
    text = Page(html.render(records.complete(), files)).text
    assert "1 file of the run directory" in text
    assert "b" * 64 not in text


def test_tables_name_their_headers(record: RunRecord) -> None:
    assert all(attributes.get("scope") for attributes in Page(html.render(record)).each("th"))


STYLE = (Path(html.__file__).parent / "templates" / "style.css").read_text("utf-8")


def _palettes() -> Iterator[dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    base = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    yield base
    yield {**base, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_that_wcag_aa_asks_for_in_light_and_dark() -> None:
    for palette in _palettes():
        for ink in ("ink", "soft", "good", "warn", "bad", "run"):
            for ground in ("page", "paper", "sunken"):
                assert _contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
        for tone in ("good", "warn", "bad", "run"):
            assert _contrast(palette[tone], palette[f"{tone}-bg"]) >= 4.5, tone
            assert _contrast(palette["ink"], palette[f"{tone}-bg"]) >= 4.5, tone
            assert _contrast(palette[tone], palette["track"]) >= 3, tone
