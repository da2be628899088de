"""The plan of a run as a page of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mandate.cli import rekey_plan, run_text
from mandate.cli.output import seconds, size
from mandate.runbook import modes
from mandate.runbook.foreseen import Foreseen
from mandate.runbook.planning import Disk, Plan

# Backup and restored copy; what follows is the engine's, which it tells in more detail itself.
_BEFORE_MIGRATING = 2


def page(made: Plan) -> str:
    """The plan as a page."""
    forecast = made.engine.forecast if made.engine else None
    lines = [
        *run_text.wrapped(f"Plan for migration {made.migration} on {made.database} (from {made.source})"),
        f"  PostgreSQL {made.server_version}, schema version {made.schema_version}",
        *run_text.wrapped(made.action, "  would "),
        f"  migrates {modes.words(made.mode)}",
    ]
    if made.held_by:
        lines += run_text.wrapped(f"a run holds this database now: {made.held_by}", "  note  ")
    if made.steps:
        lines += ["", "Steps", *_steps(made)]
    if made.tables:
        lines += _needs(made)
    sampled = forecast is not None and forecast.sample_seconds is not None
    return "\n".join([*lines, "", *rekey_plan.nothing_changed(sampled)])


def _needs(made: Plan) -> Iterator[str]:
    """Tables, disk, WAL, time and locks: the engine's own forecast, where there is one."""
    engine = made.engine
    if engine is None or engine.forecast is None or engine.graph is None:
        yield from ("", *_tables(made), "", *_locks(made), "", *_disk(made.disk, "Disk"))
    else:
        found = engine.forecast
        yield from ("", *rekey_plan.tables(engine.graph, found))
        yield from (
            "",
            *_disk(made.disk[:_BEFORE_MIGRATING], "Disk of the backup and its proof"),
            "",
            *rekey_plan.disk(found),
        )
        yield from ("", *rekey_plan.wal(found), "", *rekey_plan.time(found), "")
        yield from rekey_plan.locks(found.locks)
        if made.locks_measured:
            yield from ("", *_locks(made))
    if engine is not None:
        yield from _refused(made.migration, engine)


def _refused(migration: str, engine: Foreseen) -> Iterator[str]:
    if engine.problems:
        count = len(engine.problems)
        reasons = f"{count} reason{'s' if count > 1 else ''}"
        yield from ("", f"`mandate run {migration}` would refuse, for {reasons}:")
        for problem in engine.problems:
            yield from run_text.wrapped(problem, "  - ")
        yield from run_text.wrapped("`--plain-sql` does not need the engine, and keeps no way back.", "  ")
    if engine.unknown:
        yield ""
        yield from run_text.wrapped(engine.unknown, "What the engine needs is not known: ")


def _steps(made: Plan) -> Iterator[str]:
    yield f"  {'':<9} {'':<45} {'guide':<5} {'would':<8} {'time':>6}"
    for step in made.steps:
        time = seconds(step.seconds) if step.seconds else ""
        yield f"  {step.name:<9} {step.title:<45} {step.guide:<5} {step.action:<8} {time:>6}".rstrip()
        if step.name == "probe" and not modes.by_engine(made.mode):
            yield f"  {'- - point of no return: services write again from here on - -':^70}".rstrip()
    if not any(step.seconds for step in made.steps):
        yield from run_text.wrapped(
            f"no times: nothing was rehearsed yet (`mandate rehearse {made.migration}`)", "  "
        )


def _tables(made: Plan) -> Iterator[str]:
    yield f"{'Tables':<28} {'rows (about)':>14} {'size':>11}  change"
    for table in made.tables:
        yield f"  {table.name:<26} {table.rows:>14,} {size(table.bytes):>11}  {table.change}"


def _locks(made: Plan) -> Iterator[str]:
    by_engine = modes.by_engine(made.mode)
    held = "for moments: no longer than the cutover's deadline" if by_engine else "all held to its end"
    yield "Locks of the migrating step" + (
        " (as the last rehearsal measured them)" if made.locks_measured else f" ({held})"
    )
    for item in made.locks:
        held = f"{seconds(item['seconds'])}" if item["seconds"] is not None else ""
        yield f"  {item['table']:<34} {item['mode']:<22} {held:>8}".rstrip()


def _disk(needs: Sequence[Disk], title: str) -> Iterator[str]:
    yield f"{title:<40} {'needed':>11} {'free':>11}"
    for item in needs:
        free = size(item.free) if item.free is not None else "unknown"
        short = "  NOT ENOUGH" if item.free is not None and item.free < item.needed else ""
        yield f"  {item.what:<38} {size(item.needed):>11} {free:>11}{short}"
        yield f"    {run_text.short_path(item.where)}"
