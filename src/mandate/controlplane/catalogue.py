"""What decides, in memory: the newest snapshot, scopes and active specs of each domain, compiled once.

An entry is never trusted for its age: the statement that writes a decision compares the entry's figures with
the database and refuses where they differ, so notifications save a round trip and nothing depends on them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from mandate.controlplane import populate
from mandate.controlplane.evaluator import Evaluation, Evaluator
from mandate.controlplane.model import (
    Decision,
    InvalidModel,
    Policy,
    Scope,
    Spec,
    Stage,
    Verdict,
    parse_policies,
    parse_spec,
)
from mandate.controlplane.populate import Populated, Populator
from mandate.controlplane.store import UUID_PATTERN, Store
from mandate.postgres.connection import Row

MOST_DOMAINS = 10_000


class Key(NamedTuple):
    """A domain as callers name it: by its name, or by the UUID that it once had."""

    organization_id: str
    domain: str


class Ground(NamedTuple):
    """What record.sql compares with the database before it believes what judged: one row of its arrays e_...,
    each value as PostgreSQL reads it."""

    organization_id: str
    domain: str
    domain_key: str
    snapshot_id: str | None
    scopes: str
    specs: str


@dataclass(frozen=True)
class Judge:
    """What answers for one spec: its evaluator, or the verdict that stands while it cannot be evaluated."""

    spec_id: str
    version: int
    evaluator: Evaluator | None
    strictest: Verdict
    defect: str | None = None
    populator: Populator = field(default_factory=lambda: Populator(()))

    def judge(self, decision: Decision, text: str | None = None) -> tuple[Evaluation, tuple[Populated, ...]]:
        """The verdict, and what the text populated. What goes wrong here fails closed; nothing is raised."""
        if self.evaluator is None:
            return self._closed(self.defect or "the spec cannot be evaluated"), ()
        try:
            return populate.evaluate(self.evaluator, self.populator, decision, text)
        except Exception as error:  # noqa: BLE001 - an evaluation that breaks must not let anything through
            return self._closed(f"the evaluation broke: {type(error).__name__}"), ()

    def _closed(self, reason: str) -> Evaluation:
        return Evaluation(self.strictest, reasons=(reason,), failed_closed=True)


@dataclass(frozen=True)
class Entry:
    """One domain as one snapshot of the database had it. `domain_key` is its key in that schema version."""

    version: int
    organization_id: str
    domain: str
    domain_key: str
    snapshot_id: str | None
    snapshot_version: int | None
    scopes: int
    specs: int
    judges: Mapping[tuple[str, str], Judge]
    defects: tuple[str, ...] = ()
    loaded: float = field(default_factory=time.monotonic, compare=False)

    @cached_property
    def ground(self) -> Ground:
        """What a decision that this entry judged rests on."""
        return Ground(
            self.organization_id,
            self.domain,
            self.domain_key,
            self.snapshot_id,
            str(self.scopes),
            str(self.specs),
        )

    def judge(self, intent: str, stage: Stage) -> Judge | None:
        """What answers for an intent at a stage; None where no spec is active."""
        return self.judges.get((intent, stage.value))


def compile_entry(version: int, row: Row) -> Entry:
    """A row of catalogue.sql as an entry. What cannot be meant becomes a judge that fails closed."""
    scopes = [Scope(**scope) for scope in row["scopes"]]
    try:
        policies: Sequence[Policy] = () if row["policies"] is None else parse_policies(row["policies"])
        defect = None
    except InvalidModel as error:
        policies, defect = (), f"snapshot version {row['snapshot_version']}: {error.message}"
    judges = {
        (spec["intent"], spec["stage"]): _judge(spec, policies, scopes, defect) for spec in row["specs"]
    }
    found = [judge.defect for judge in judges.values() if judge.defect]
    found += [
        text for judge in judges.values() if judge.evaluator is not None for text in judge.evaluator.defects
    ]
    return Entry(
        version,
        row["organization_id"],
        row["domain"],
        row["domain_key"],
        row["snapshot_id"],
        row["snapshot_version"],
        len(scopes),
        row.get("spec_events", len(row["specs"])),
        judges,
        tuple(dict.fromkeys(found)),
    )


def _judge(
    row: Mapping[str, Any], policies: Sequence[Policy], scopes: Sequence[Scope], defect: str | None
) -> Judge:
    spec_id, version = str(row["spec_id"]), int(row["version"])
    try:
        spec: Spec = parse_spec(row)
    except InvalidModel as error:
        # Not even what it allows can be trusted.
        return Judge(
            spec_id, version, None, Verdict.BLOCK, f"spec {spec_id} version {version}: {error.message}"
        )
    strictest = max(spec.allowed_verdicts, key=lambda verdict: verdict.severity)
    if defect is not None:
        return Judge(spec_id, version, None, strictest, defect)
    evaluator = Evaluator(spec, policies, scopes)
    return Judge(spec_id, version, evaluator, strictest, populator=Populator(spec.signals))


class Catalogue:
    """Entries by domain, loaded when they are first asked for. Raises DatabaseError and NotMandate."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[Entry | None]] = {}
        self._generation = 0
        self.on_load: Callable[[Entry], None] = lambda _entry: None

    def get(self, key: Key) -> Entry | None:
        """The entry that is in memory."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    async def load(self, key: Key) -> Entry | None:
        """The domain as the database has it now; None where there is none. Concurrent calls share one read,
        but never one that began before they asked for it."""
        running = self._loading.get(key)
        if running is not None:
            await asyncio.wait([running])
            running = self._loading.get(key)  # somebody else who waited may have begun the next one
        if running is None:
            running = self._loading[key] = asyncio.create_task(self._load(key))
            running.add_done_callback(lambda task: self._loaded(key, task))
        return await asyncio.shield(running)

    def _loaded(self, key: Key, task: asyncio.Task[Entry | None]) -> None:
        if self._loading.get(key) is task:
            del self._loading[key]

    async def _load(self, key: Key) -> Entry | None:
        generation = self._generation
        uuid = key.domain.lower() if UUID_PATTERN.fullmatch(key.domain) else None
        version, rows = await self._store.own("catalogue", {**key._asdict(), "uuid": uuid}, principal=False)
        if not rows:
            self._entries.pop(key, None)
            return None
        entry = compile_entry(version, rows[0])
        self.on_load(entry)
        # By its name, and by the one spelling of its UUID: of all the others there are too many to keep.
        if generation == self._generation and key.domain in (entry.domain, uuid):
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > MOST_DOMAINS:
                self._entries.popitem(last=False)
        return entry

    async def look_again(self) -> None:
        """Forget everything, and which version the schema has. Raises DatabaseError."""
        await self._store.schema_version()
        self.forget()

    def forget(self, organization_id: str | None = None) -> None:
        """Drop what is in memory, of one organization or of all."""
        self._generation += 1
        if organization_id is None:
            self._entries.clear()
            return
        for key in [key for key in self._entries if key.organization_id == organization_id]:
            del self._entries[key]

    @property
    def ages(self) -> tuple[float, ...]:
        """Seconds since each entry was loaded."""
        now = time.monotonic()
        return tuple(now - entry.loaded for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
