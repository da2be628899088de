"""JSON texts of what was written, made of what was sent: PostgreSQL gives back the evidence only.

They say what the lists say, in the same order, with times and white space as PostgreSQL writes them: it has
the same bytes when it is recorded and whenever it is asked for again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from mandate.controlplane.recording import Kind, Recording

_REMEMBERED_KINDS = 1024


def decision(recording: Recording, context: str, scope: str) -> str:
    """A decision whose evidence is recorded as these JSON texts."""
    columns = recording.columns
    place, kind, spec = _of_decision(recording.kind)
    return (
        f'{{"decision_id" : "{columns.decision_id}", {place}, {kind}, "actor" : {_json(columns.actor)}, '
        f'"target" : {_json(columns.target)}, "context" : {context}, "scope" : {scope}, '
        f'"timestamp" : "{_time(columns.timestamp)}", {spec}}}'
    )


def verdict(recording: Recording) -> str:
    """The verdict on a decision."""
    columns = recording.columns
    place, snapshot, spec, scope = _of_verdict(recording.kind)
    return (
        f'{{"verdict_id" : "{columns.verdict_id}", {place}, "decision_id" : "{columns.decision_id}", '
        f'{snapshot}, "verdict" : "{columns.verdict}", '
        f'"matched_policy_ids" : {_json(recording.evaluation.matched_policy_ids)}, '
        f'"explanation" : {_json(recording.explanation)}, {spec}, {scope}, '
        f'"timestamp" : "{_time(columns.issued)}"}}'
    )


@lru_cache(maxsize=_REMEMBERED_KINDS)
def _of_decision(kind: Kind) -> tuple[str, str, str]:
    place, _, spec, _ = _of_verdict(kind)
    return place, f'"intent" : {_json(kind.intent)}, "stage" : {_json(kind.stage)}', spec


@lru_cache(maxsize=_REMEMBERED_KINDS)
def _of_verdict(kind: Kind) -> tuple[str, str, str, str]:
    ground = kind.ground
    return (
        f'"organization_id" : {_json(ground.organization_id)}, "domain" : {_json(ground.domain)}',
        f'"snapshot_id" : {_json(ground.snapshot_id)}',
        f'"spec_id" : {_json(kind.spec_id)}, "spec_version" : {kind.spec_version or "null"}',
        f'"scope_id" : {_json(kind.scope_id)}, "owning_team" : {_json(kind.owning_team)}',
    )


def _json(value: Any) -> str:
    return to_json(value).decode()


def _time(text: str) -> str:
    """Without the zeros at the end of a fraction; all times are in UTC."""
    if text[-7] != "0" or "." not in text:
        return text
    return f"{text[:-6].rstrip('0')}{text[-6:]}"
