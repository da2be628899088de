"""What the engine would need for a migration, and what it would refuse; nothing of it stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mandate.errors import CheckFailed, DatabaseError, MandateError, UsageError
from mandate.postgres.connection import Session, Target, connect
from mandate.rekey import cutover, forecast, refuse
from mandate.rekey.discover import discover
from mandate.rekey.estimate import Earlier, eta_of_earlier
from mandate.rekey.forecast import Forecast
from mandate.rekey.journal import PHASES
from mandate.rekey.model import Graph
from mandate.runbook.migration import Migration

REHEARSAL = "rehearsal"


@dataclass(frozen=True)
class Foreseen:
    """The engine's part of a plan: what a run would refuse, and without that what it takes.

    `unknown`: why there is no forecast although nothing is refused.
    """

    problems: tuple[str, ...] = ()
    graph: Graph | None = None
    forecast: Forecast | None = None
    unknown: str | None = None

    @property
    def fits(self) -> bool:
        """Whether a run would begin: nothing is refused, and every disk that can be seen has room."""
        places = self.forecast.places if self.forecast else ()
        return not self.problems and not any(place.missing for place in places)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the graph is what `forecast` lists by table."""
        return {
            "problems": list(self.problems),
            "unknown": self.unknown,
            "forecast": self.forecast.as_dict() if self.forecast else None,
        }


class _TakeBack(Exception):
    """Ends the transaction that everything was done in."""


def look(
    migration: Migration,
    target: Target,
    jobs: int,
    swap: cutover.Options,
    sample: bool,
    rehearsed: Mapping[str, Any],
    accept: Collection[str] = (),
) -> Foreseen:
    """Look, in a transaction that is taken back: what the spec reads beside the tables may not be there yet.

    `rehearsed`: what the newest rehearsal in this mode recorded; it tells the time better than a sample.
    `accept`: problems that a person has looked at.
    """
    found = Foreseen(unknown="nothing was looked at")
    settings = {"row_security": "off", "stats_fetch_consistency": "none"}
    with connect(target, application_name="mandate-plan") as session:
        try:
            with session.transaction():
                _settle(session, settings)
                migration.prepare(session)
                graph = discover(session, migration.spec())
                problems = tuple(text for text in refuse.problems(session, graph) if text not in accept)
                sampled = sample and not problems and not _phases(rehearsed)
                made = forecast.make(session, target, graph, jobs=jobs, sample=sampled, swap=swap)
                found = Foreseen(problems, graph, made)
                raise _TakeBack
        except _TakeBack:
            pass
        except (CheckFailed, UsageError) as refusal:
            found = Foreseen(problems=tuple(refusal.fields.get("problems", ())) or (_said(refusal),))
        except DatabaseError as error:
            found = Foreseen(unknown=_said(error))
    if found.forecast is None:
        return found
    return replace(found, forecast=_timed(found.forecast, rehearsed))


def _settle(session: Session, settings: Mapping[str, str]) -> None:
    """For this transaction; a server that does not know a setting does without."""
    for name, value in settings.items():
        session.execute(
            "SELECT set_config(name, %s, true) FROM pg_settings WHERE name = %s",
            (value, name),
        )


def _said(error: MandateError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _phases(rehearsed: Mapping[str, Any]) -> dict[str, float]:
    seconds = {str(phase["name"]): float(phase["seconds"]) for phase in rehearsed.get("phases", [])}
    return {phase: seconds[phase] for phase in PHASES if phase in seconds}


def _timed(made: Forecast, rehearsed: Mapping[str, Any]) -> Forecast:
    """With the phases' times of a rehearsal, by rows, unless a run that was real came after it."""
    phases = _phases(rehearsed)
    at = f"{rehearsed['at']:%Y-%m-%d %H:%M}" if phases else ""
    if not phases or (made.earlier is not None and made.earlier > at):
        return made
    earlier = Earlier(at, int(rehearsed.get("rows", 0)), phases)
    eta = eta_of_earlier(earlier, sum(table.rows for table in made.tables))
    return replace(made, eta=replace(eta, source=REHEARSAL), earlier=at)
