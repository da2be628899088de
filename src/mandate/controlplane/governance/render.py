"""What a database has, written as mandate.yaml: reading it back and applying it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mandate.controlplane import model
from mandate.controlplane.governance.source import resolve
from mandate.controlplane.governance.state import Row, State, normal_policy


def _dumper() -> Any:
    """PyYAML's, with lists indented as people do it, no aliases, and every text written to be read as one."""
    safe: Any = yaml.SafeDumper

    def increase_indent(self: Any, flow: bool = False, indentless: bool = False) -> None:
        safe.increase_indent(self, flow, False)

    def ignore_aliases(_self: Any, _data: Any) -> bool:
        return True

    own = {"increase_indent": increase_indent, "ignore_aliases": ignore_aliases}
    dumper: Any = type("Dumper", (safe,), own)
    dumper.add_representer(str, _represent)
    return dumper


def _represent(dumper: Any, text: str) -> Any:
    value, wrong = resolve(text)
    ambiguous = wrong is not None or not isinstance(value, str) or text == "<<"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if ambiguous else None)


_DUMPER = _dumper()


def documents(state: State, *, rules_only: bool = False) -> tuple[dict[str, Any], ...]:
    """One document for each organization: what is in force and the drafts, not the history.

    `rules_only`: specs and policies, and of the rest no more than whose they are.
    """
    return tuple(_organization(row, state, rules_only) for row in state.organizations)


def text(state: State) -> str:
    """The YAML."""
    written = documents(state)
    return str(
        yaml.dump_all(
            written, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=100, explicit_start=True
        )
    )


def _organization(row: Row, state: State, rules_only: bool) -> dict[str, Any]:
    domains = [
        _domain(domain, state, rules_only)
        for domain in state.domains
        if domain["organization_id"] == row["organization_id"]
    ]
    head = _given(row, "organization_id", *(() if rules_only else ("name", "description", "metadata")))
    return {"mandate": 1, "organization": head, **({"domains": domains} if domains else {})}


def _domain(row: Row, state: State, rules_only: bool) -> dict[str, Any]:
    def mine(rows: tuple[Row, ...]) -> Iterator[Row]:
        key = (row["organization_id"], row["domain"])
        return (each for each in rows if (each["organization_id"], each["domain"]) == key)

    block = _given(row, "domain", *(() if rules_only else ("description", "metadata")))
    if not rules_only:
        names = (*model.SELECTORS, "owning_team", "owner_contact", "description")
        block["scopes"] = [_given(scope, "scope_id", *names) for scope in mine(state.scopes)]
    block["specs"] = [_spec(spec) for spec in mine(state.specs) if spec["status"] != "deprecated"]
    for snapshot in mine(state.snapshots):
        block["policies"] = [normal_policy(policy) for policy in snapshot["policies"]]
    return {key: value for key, value in block.items() if key == "policies" or value not in ([], None)}


def _spec(row: Row) -> dict[str, Any]:
    return _given(
        row,
        *("spec_id", "version", "intent", "stage", "status", "allowed_verdicts", "enforcement", "signals"),
    )


def _given(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row[name] not in (None, "", {}, [])}
