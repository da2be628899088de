"""The same model in three spellings: how statements read a version 7, 8 or 9 database.

A statement is `relations.sql` of its version followed by a body, shared unless a version has its own; each
names columns that only its own version has, so that PostgreSQL itself refuses it when the schema has changed.
What a version spells as the one before is there once. `/* tenant: a, b */` in a body is where two relations
are joined by an id alone: in version 9 ids are unique within an organization.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files


def _read(*path: str) -> bytes:
    return files("mandate.controlplane").joinpath("sql", *path).read_bytes()


SCHEMA_VERSION = _read("schema_version.sql")


STATEMENTS = (
    *("decisions", "decision", "recorded", "verdicts", "timeline", "entry", "owners"),
    *("domains", "scopes", "specs", "policy_snapshots"),
)
# What only one version can say, without the shared relations.
OWN_STATEMENTS = ("catalogue", "outcome", "reach", "record", "reserve", "resolve_domain", "resolve_scope")
# These begin with replay.sql of their version.
REPLAY_STATEMENTS = (
    *("replay_count", "replay_domain", "replay_domains", "replay_ends", "replay_rows"),
    *(
        "replay_scopes",
        "replay_scopes_then",
        "replay_snapshot",
        "replay_spec",
        "replay_specs",
        "replay_texts",
    ),
)


@dataclass(frozen=True)
class Dialect:
    """The statements for one version of the schema, by name."""

    version: int
    statements: Mapping[str, bytes]
    own: Mapping[str, bytes]


_TENANT = re.compile(rb"/\* tenant: (\w+), (\w+) \*/")
VERSIONS = (7, 8, 9)


def spelled(version: int, read: Callable[[str, str], bytes], name: str) -> bytes:
    """A file of that version's folder; of version 8's where version 9 says the same."""
    try:
        return read(f"v{version}", name)
    except FileNotFoundError:
        return read("v8", name)


def _body(version: int, name: str) -> bytes:
    own = files("mandate.controlplane").joinpath("sql", f"v{version}", f"{name}.sql")
    text = own.read_bytes() if own.is_file() else _read(f"{name}.sql")
    return _TENANT.sub(rb"AND \1.organization_id = \2.organization_id", text) if version >= 9 else text


def _load(version: int) -> Dialect:
    relations, replay = (spelled(version, _read, f"{name}.sql") for name in ("relations", "replay"))
    return Dialect(
        version,
        {
            **{name: relations + _body(version, name) for name in STATEMENTS},
            **{name: replay + _body(version, name) for name in REPLAY_STATEMENTS},
        },
        {name: spelled(version, _read, f"{name}.sql") for name in OWN_STATEMENTS},
    )


DIALECTS = {version: _load(version) for version in VERSIONS}

# SQLSTATEs with which a statement of the other version is refused, or that a schema gives while it changes.
_OUTDATED = {
    "0A000",  # cached plan must not change result type
    "22P02",  # a readable key where a uuid is expected
    "3F000",  # schema
    "42703",  # column
    "42704",  # type
    "42725",  # ambiguous function
    "42804",  # datatype mismatch
    "42846",  # cannot cast
    "42883",  # operator
    "42P01",  # table
    "42P10",  # no unique key for ON CONFLICT
    "42P18",  # indeterminate datatype
    "XX000",  # cache lookup, relation with OID: dropped between parse and execution
}


def may_be_outdated(sqlstate: str | None) -> bool:
    """Whether a statement refused with this SQLSTATE may have been written for another schema version."""
    return sqlstate in _OUTDATED
