"""A replay's result as text for people, as one JSON document, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mandate.cli import output
from mandate.controlplane.model import Verdict
from mandate.controlplane.replay import Report

_SHOWN = 20
_COLUMNS = (
    "decision_id", "timestamp", "organization_id", "domain", "intent", "stage", "actor", "target",
    "spec_id", "spec_version", "snapshot_id", "finding", "recorded_verdict", "replayed_verdict",
    "recorded_policies", "replayed_policies", "why",
)  # fmt: skip
# A cell that begins so is a formula to a spreadsheet. https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_MOST_SEVERE_FIRST = [str(verdict) for verdict in sorted(Verdict, key=lambda verdict: -verdict.severity)]


def as_json(report: Report) -> Iterator[str]:
    """One document in pieces, a decision a line: it need not fit into memory, here or when it is read."""
    head = {"schema": f"mandate.replay/{output.SCHEMA_VERSION}", **summary(report)}
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "decisions": ['
    separator = "\n"
    for line in report.lines():
        yield separator + json.dumps(line, ensure_ascii=False)
        separator = ",\n"
    yield "]}\n"


def as_csv(report: Report) -> Iterator[str]:
    """A header and a row for each decision that is not the same (RFC 4180)."""
    yield _row(_COLUMNS)
    for line in report.lines():
        replayed = line["replayed"] or {"verdict": None, "matched_policy_ids": ()}
        found = {
            **line,
            "recorded_verdict": line["recorded"]["verdict"],
            "replayed_verdict": replayed["verdict"],
            "recorded_policies": " ".join(line["recorded"]["matched_policy_ids"]),
            "replayed_policies": " ".join(replayed["matched_policy_ids"]),
        }
        yield _row([found[name] for name in _COLUMNS])


def _row(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe before what would begin one."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def as_text(report: Report) -> Iterator[str]:
    """The overview, and the first decisions that are not the same."""
    yield from (f"{line}\n" for line in overview(report))
    for line, _ in zip(report.lines(), range(_SHOWN), strict=False):
        yield f"\n{_decision(line)}\n"
    told = report.totals.findings["different"] + report.totals.findings["uncheckable"]
    if told > _SHOWN:
        yield f"\nand {told - _SHOWN:,} more: --format json or csv has them all\n"


def overview(report: Report) -> list[str]:
    """What was counted."""
    lines = [*_wrapped(0, heading(report)), "", *_figures(report)]
    if not report.totals.decisions:
        return [*lines, "", "No decision is recorded that this is about: nothing was checked."]
    return lines if report.candidate is None else [*lines, "", *matrix(report)]


def heading(report: Report) -> str:
    """One line: what was replayed, how fast."""
    what = "Self-check" if report.candidate is None else f"{report.candidate} on the past"
    return (
        f"{what}: {report.totals.decisions:,} decisions of {report.database!r} (version {report.version})"
        f" in {output.seconds(report.seconds)}, {report.per_second:,.0f}/s"
    )


def _figures(report: Report) -> Iterator[str]:
    totals = report.totals
    changed = "different" if report.candidate is None else "would change"
    share = totals.findings["same"] / totals.checked if totals.checked else None
    yield f"  {'checked':<14}{totals.checked:>14,}"
    yield f"  {'same':<14}{totals.findings['same']:>14,}{'' if share is None else f'   {_percent(share)}'}"
    yield f"  {changed:<14}{totals.findings['different']:>14,}"
    for finding in ("unattributed", "uncheckable"):
        yield f"  {finding:<14}{totals.findings[finding]:>14,}"
    for (finding, reason), count in sorted(totals.reasons.items()):
        yield f"    {count:>10,} {finding}: {reason}"


def _percent(share: float) -> str:
    """100 % only where it is all of them."""
    return "100 %" if share == 1 else f"{min(share, 0.999999) * 100:.4f} %"


def matrix(report: Report) -> list[str]:
    """Recorded verdicts down, new ones across; what stays as it is in brackets."""
    counts = report.totals.matrix
    lines = [f"  {'recorded':<10}" + "".join(f"{name:>13}" for name in _MOST_SEVERE_FIRST)]
    for old in _MOST_SEVERE_FIRST:
        cells = (
            f"[{counts[old, new]:,}]" if old == new else f"{counts[old, new]:,} "
            for new in _MOST_SEVERE_FIRST
        )
        lines.append((f"  {old:<10}" + "".join(f"{cell:>13}" for cell in cells)).rstrip())
    return lines


def _decision(line: Mapping[str, Any]) -> str:
    head = f"{line['decision_id']}  {line['timestamp']}"
    about = f"{line['domain']}: {line['intent']}, {line['stage']}"
    return "\n".join([head, *_wrapped(2, about), *_wrapped(2, line["why"]), *_conditions(line["replayed"])])


def _wrapped(indent: int, text: str) -> list[str]:
    """Lines of 80 characters at most, unless a word is longer."""
    return textwrap.wrap(
        text,
        80,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _conditions(replayed: Mapping[str, Any] | None) -> Iterator[str]:
    for policy in replayed["trace"] if replayed else ():
        verb = "matches" if policy["matched"] else "does not match"
        yield from _wrapped(2, f"{policy['policy_id']} ({policy['verdict']}) {verb}")
        for seen in policy["conditions"]:
            mark = "+" if seen["held"] else "-"
            wanted, found = _value(seen["expected"]), _value(seen["actual"])
            yield from _wrapped(4, f"{mark} {seen['field']} {seen['operator']} {wanted}, is {found}")


def _value(value: object) -> str:
    """As it is recorded, in JSON; a signal that was not sent has none."""
    return "missing" if value is None else json.dumps(value, ensure_ascii=False)


def summary(report: Report) -> dict[str, Any]:
    """All but the decisions, JSON-able."""
    selection = report.selection
    return {
        "mode": "self-check" if report.candidate is None else "candidate",
        "database": report.database,
        "version": report.version,
        "candidate": report.candidate,
        "since": None if selection.since == "-infinity" else selection.since,
        "until": None if selection.until == "infinity" else selection.until,
        "received_by": selection.received,
        "organization_id": selection.organization_id,
        "domain": selection.domain,
        "intent": selection.intent,
        "resumed": report.resumed,
        "seconds": round(report.seconds, 3),
        "totals": report.totals.as_dict(),
        "all_the_same": report.all_the_same,
    }
