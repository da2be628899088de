"""How a key change is run, and what somebody's change does beside its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mandate.rekey import cutover, load


@dataclass(frozen=True)
class Hooks:
    """What somebody's change does beside its tables, in sessions of the engine.

    `begin` once a run begins or goes on; `before_swap` and `before_swap_back` on the session of each attempt,
    before its transaction; `before_locks` inside it, when no client waits for it yet; `at_swap` and
    `at_swap_back` once the tables have changed places; `after_swap` in a transaction of its own, however
    often, before anything else is done with the tables that were put aside.
    """

    begin: Sequence[cutover.Work] = ()
    before_swap: Sequence[cutover.Work] = ()
    before_locks: Sequence[cutover.Work] = ()
    at_swap: Sequence[cutover.Work] = ()
    after_swap: Sequence[cutover.Work] = ()
    before_swap_back: Sequence[cutover.Work] = ()
    at_swap_back: Sequence[cutover.Work] = ()


@dataclass(frozen=True)
class Options:
    """How a change is run: `jobs` sessions at a time; `accept`: problems that a person has accepted.

    `limits`: what the server must not go beyond meanwhile; None: clients are stopped, nothing is spared.
    `force_space`: begin although the new tables seem not to fit the disk.
    """

    jobs: int = 2
    limits: load.Limits | None = None
    accept: frozenset[str] = frozenset()
    force_space: bool = False
    swap: cutover.Options = field(default_factory=cutover.Options)
    hooks: Hooks = field(default_factory=Hooks)

    def with_hooks(self, hooks: Hooks) -> Options:
        """The same with these hooks."""
        return replace(self, hooks=hooks)
