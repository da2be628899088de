"""Sample databases of other people's making, and the whole life of a key change on each, under writers."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.shadowing import run_script

from mandate.errors import DatabaseError
from mandate.postgres import programs
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Silent
from mandate.rekey import engine, spec
from mandate.rekey.options import Options

PLACE = Path(__file__).parent / "samples"
# Of a statement: a text that occurs nowhere else, by which the row is looked for at the end.
MARK = "$mark"


@dataclass(frozen=True)
class Sample:
    """`writes`: statements that clients run, by chance; one with MARK makes a row with it in `marked`.

    `intended`: what the change does to a dump, as regular expressions and their replacements.
    """

    name: str
    writes: Sequence[str]
    marked: Sequence[str]
    intended: Sequence[tuple[str, str]]
    before: str = ""
    same_rows: bool = True

    @property
    def script(self) -> str:
        return f"{(PLACE / f'{self.name}.sql').read_text('utf-8')}\n{self.before}"

    @property
    def spec(self) -> str:
        return (PLACE / f"{self.name}.toml").read_text("utf-8")

    def engine(self, target: Target) -> engine.Engine:
        """The engine with this change."""
        return engine.Engine(target, spec.parse(self.spec), Options(jobs=2), Silent())


@dataclass
class Writer:
    """A client: what it wrote and what failed."""

    target: Target
    sample: Sample
    number: int
    marks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def work(self, stop: threading.Event) -> None:
        """Write until told to stop."""
        choose = random.Random(self.number)
        with connect(self.target, application_name=f"writer-{self.number}") as session:
            session.connection.prepare_threshold = None
            while not stop.is_set():
                mark = f"w{self.number}x{len(self.marks)}x{choose.randrange(10**9)}"
                statement = choose.choice(self.sample.writes)
                try:
                    session.execute(statement.replace(MARK, mark).encode())
                except DatabaseError as error:
                    self.failures.append(f"{statement}: {error}")
                else:
                    self.marks += [mark] if MARK in statement else []


@contextmanager
def writing(target: Target, sample: Sample, first: int = 0) -> Iterator[list[Writer]]:
    """Two writers at work as long as the block runs."""
    writers = [Writer(target, sample, number) for number in range(first, first + 2)]
    stop = threading.Event()
    threads = [threading.Thread(target=writer.work, args=(stop,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def missing(session: Session, sample: Sample, writers: Sequence[Writer]) -> set[str]:
    """Marks that were written and are nowhere."""
    found: set[str] = set()
    for query in sample.marked:
        found |= {row["mark"] for row in session.rows(query.encode())}
    return {mark for writer in writers for mark in writer.marks} - found


def contents(session: Session) -> Mapping[str, list[str]]:
    """Every row of every ordinary table that is not the engine's, as text, in order."""
    names = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema|mandate_)' ORDER BY 1, 2"
    )
    return {
        f"{row['schema']}.{row['name']}": [
            r["row"]
            for r in session.rows(
                sql.SQL('SELECT t::text AS row FROM {} AS t ORDER BY t::text COLLATE "C"').format(
                    sql.Identifier(row["schema"], row["name"])
                )
            )
        ]
        for row in names
    }


def dump(target: Target) -> str:
    """What pg_dump writes of the schema, to the byte, without the engine's own schemas."""
    text = programs.run([programs.find("pg_dump", 18), "--schema-only", "--exclude-schema=mandate_*"], target)
    text = re.sub(r"(?m)^\\(un)?restrict .*\n", "", text)
    # The capture of the way back is there until finalize.
    return re.sub(r"--\n-- Name: \S+ zzzz_mandate_(?s:.*?)\n\n\n(?=--\n)", "", text)


def parts(text: str) -> list[str]:
    """The parts of a dump whatever their order, which follows what depends on what."""
    text = re.sub(r"(?m)^SET default_(table_access_method = heap|tablespace = '');\n", "", text)
    return sorted(part.strip() for part in re.split(r"\n+(?=--\n-- Name: )", text))


def intended(sample: Sample, text: str) -> str:
    """A dump as it should be after the change."""
    for pattern, replacement in sample.intended:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, f"{pattern} is nowhere in the dump of {sample.name}"
    return text


def load(target: Target, sample: Sample) -> None:
    """Make the sample's tables and rows."""
    run_script(target, sample.script)
