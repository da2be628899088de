"""Key changes on disks that are too small, and on disks that fill up on the way, with clients at work."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.commands import mandate
from tests.disks import fill, small_disk, tablespace
from tests.servers import DatabaseFactory
from tests.shops import SHOP, TO_BIGINT, change, create, schemas_left, writing

from mandate.errors import DiskFilled, DiskFull, NotEnoughSpace
from mandate.postgres import disk
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.rekey import engine, journal, space

pytestmark = pytest.mark.slow

MIB = 1 << 20

MORE_LINES = b"""
INSERT INTO shop.lines SELECT 1 + i % 2000, 100 + i / 2000, 1, 'item ' || i FROM generate_series(0, 59999) i;
ANALYZE shop.lines;
"""


@dataclass(frozen=True)
class Small:
    """A shop whose lines, alone with their indexes, are on a small disk of their own."""

    target: Target
    disk: Path


@pytest.fixture
def place() -> Iterator[Path]:
    with small_disk(48) as made:
        yield made


@pytest.fixture
def small_tablespace(postgres: EmbeddedServer, place: Path) -> Iterator[str]:
    with tablespace(postgres, place) as name:
        yield name


@pytest.fixture
def small(small_tablespace: str, place: Path, database: DatabaseFactory) -> Small:
    target = database("empty")
    create(target, SHOP)
    create(target, MORE_LINES)
    with connect(target) as session:
        name = sql.Identifier(small_tablespace)
        session.execute(sql.SQL("ALTER TABLE shop.lines SET TABLESPACE {}").format(name))
        session.execute(sql.SQL("ALTER INDEX shop.lines_pkey SET TABLESPACE {}").format(name))
        session.execute("CHECKPOINT")
    return Small(target, place)


class After(Silent):
    """Does something as soon as a phase is over."""

    def __init__(self, phase: str, work: Callable[[], object]) -> None:
        self.phase, self.work = phase, work
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(f"{self.phase} "):
            self.work()


def status(session: Session) -> str:
    found = journal.load(session, "shop")
    assert found is not None
    return found.status


def assert_nothing_left(target: Target) -> None:
    with connect(target) as session:
        assert schemas_left(session) == []
        assert session.rows("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
        assert session.value("SELECT pg_typeof(max(id))::text FROM shop.orders") == "integer"


def client_writes_to_lines(target: Target) -> None:
    with connect(target) as session:
        session.execute(
            "INSERT INTO shop.lines SELECT 1, 1000 + i, 1, repeat('x', 500) FROM generate_series(1, 2000) i"
        )


# -- before ------------------------------------------------------------------------------------------


def test_a_change_that_will_not_fit_is_refused_before_anything_is_made(small: Small, tmp_path: Path) -> None:
    fill(small.disk, leave=12 * MIB)
    spec = tmp_path / "shop.toml"
    spec.write_text(TO_BIGINT)
    env = {"DATABASE_URL": small.target.conninfo}
    done = mandate("rekey", "run", spec, env=env)
    assert done.returncode == 5, done.stderr
    assert str(small.disk) in done.stderr
    assert "nothing was begun" in done.stderr
    for word in ("needed", "margin", "free", "missing", "--force-space"):
        assert word in done.stderr
    assert_nothing_left(small.target)
    with connect(small.target) as session:
        assert status(session) == "aborted"
    planned = mandate("rekey", "plan", spec, env=env)
    assert planned.returncode == 3
    assert "NOT ENOUGH" in planned.stdout

    forced = mandate("rekey", "run", spec, "--force-space", env=env)
    assert forced.returncode == 0, forced.stderr
    with connect(small.target) as session:
        phases = {phase.phase: phase.evidence for phase in journal.phases(session, "shop")}
    assert phases["copy"]["space"]["forced"] is True


def test_the_refusal_has_its_figures(small: Small) -> None:
    fill(small.disk, leave=2 * MIB)
    with pytest.raises(NotEnoughSpace) as caught:
        change(small.target, TO_BIGINT).run()
    fields = caught.value.fields
    assert fields["free_bytes"] <= 2 * MIB
    assert fields["need_bytes"] > MIB
    margin = fields["places"][0]["margin"]
    assert fields["missing_bytes"] == fields["need_bytes"] + margin - fields["free_bytes"]
    assert caught.value.exit_code == 5


def test_a_server_elsewhere_is_not_guarded_and_that_is_said_once(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_not_here", lambda *_: "the server is on another host")
    reporter = After("never", lambda: None)
    change(small.target, TO_BIGINT, reporter).run()
    said = [line for line in reporter.lines if "not known from here" in line]
    assert len(said) == len(set(said)) == 3
    assert all("df -h" in line for line in said)
    with connect(small.target) as session:
        phases = {phase.phase: phase.evidence for phase in journal.phases(session, "shop")}
    assert {place["why"] for place in phases["map"]["space"]["places"]} == {"the server is on another host"}


# -- on the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["shadow", "copy"])
def test_a_disk_that_is_full_takes_the_change_back_and_no_client_notices(
    small: Small, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """As on a server elsewhere: PostgreSQL is the first to know (53100), in the copy or in the build."""
    monkeypatch.setattr(disk, "_not_here", lambda *_: "the server is on another host")
    reporter = After(phase, lambda: fill(small.disk))
    with writing(small.target) as writers, pytest.raises(DiskFilled, match="No space left") as caught:
        change(small.target, TO_BIGINT, reporter).run()
    assert caught.value.exit_code == 5
    assert "run again" in (caught.value.hint or "")
    assert_nothing_left(small.target)
    with connect(small.target) as session:
        assert status(session) == "aborted"
        for writer in writers:
            assert writer.statements > 0
            assert writer.failures == []
            writer.check(session)


def test_rows_that_no_longer_fit_while_catching_up(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old table has gaps for what clients write; the new one has none."""
    monkeypatch.setattr(disk, "_not_here", lambda *_: "the server is on another host")
    with connect(small.target) as session:
        session.execute("DELETE FROM shop.lines WHERE line >= 100 AND line % 2 = 0")
        session.execute("VACUUM shop.lines")

    def fill_and_write() -> None:
        fill(small.disk)
        with connect(small.target) as session:
            session.execute(
                "INSERT INTO shop.lines SELECT 1 + i % 2000, 100 + 2 * (i / 2000), 1, 'item ' || i"
                " FROM generate_series(0, 29999) i"
            )

    with pytest.raises(DiskFilled, match="No space left"):
        change(small.target, TO_BIGINT, After("build", fill_and_write)).run()
    assert_nothing_left(small.target)
    with connect(small.target) as session:
        assert session.value("SELECT count(*) FROM shop.lines WHERE line >= 100") == 60_000


def test_the_space_is_given_back_to_clients_at_once(small: Small) -> None:
    """The guard sees it before the disk is full: what is left and what is given back is theirs."""
    before = shutil.disk_usage(small.disk).free
    filled: list[Path] = []
    reporter = After("copy", lambda: filled.append(fill(small.disk, leave=6 * MIB)))
    with pytest.raises(DiskFilled, match="no longer fits"):
        change(small.target, TO_BIGINT, reporter).run()
    client_writes_to_lines(small.target)
    filled[0].unlink()
    assert shutil.disk_usage(small.disk).free >= before - 4 * MIB
    with writing(small.target) as writers:
        change(small.target, TO_BIGINT).run()
    with connect(small.target) as session:
        for writer in writers:
            assert writer.failures == []
            writer.check(session)


def test_a_change_that_is_gone_on_with_is_refused_and_kept_when_the_rest_does_not_fit(small: Small) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change(small.target, TO_BIGINT, After("capture", die)).run()
    filler = fill(small.disk, leave=6 * MIB)
    with pytest.raises(NotEnoughSpace, match="what is done already stays"):
        change(small.target, TO_BIGINT).run()
    with connect(small.target) as session:
        assert status(session) == "running"
        assert schemas_left(session) != []
    filler.unlink()
    change(small.target, TO_BIGINT).run()


def test_what_a_session_does_is_cancelled_when_little_is_left(small: Small) -> None:
    place = {"path": str(small.disk), "margin": 16 * MIB, "free": shutil.disk_usage(small.disk).free}
    watch = space.Watch({"places": [place, {"path": None, "margin": 1, "free": None}]})
    watch.require()
    with connect(small.target) as session:
        filler = threading.Timer(0.1, fill, [small.disk, MIB])
        filler.start()
        with pytest.raises(DiskFull, match="have to stay"), watch.over([session]):
            session.execute("SELECT pg_sleep(600)")
        filler.join()
        assert session.value("SELECT 1") == 1
    with pytest.raises(DiskFull):
        watch.require()


def test_no_room_for_the_journal_either(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try to write down that it is aborted meets the full disk as well."""
    monkeypatch.setattr(disk, "_not_here", lambda *_: "the server is on another host")
    with connect(small.target) as session:
        journal.ensure(session)
        session.execute(
            "CREATE SEQUENCE tries;"
            "CREATE FUNCTION full_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('public.tries') = 1 THEN"
            "  RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
            " END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER full_once BEFORE UPDATE ON mandate_conductor.rekeys FOR EACH ROW"
            " WHEN (NEW.status = 'aborted') EXECUTE FUNCTION full_once()"
        )
    with pytest.raises(DiskFilled):
        change(small.target, TO_BIGINT, After("shadow", lambda: fill(small.disk))).run()
    with connect(small.target) as session:
        assert session.value("SELECT last_value FROM tries") == 2
        assert schemas_left(session) == []
        assert status(session) == "aborted"


def test_forcing_is_for_one_run(small: Small) -> None:
    fill(small.disk, leave=12 * MIB)
    made = change(small.target, TO_BIGINT)
    forced = replace(made, options=replace(made.options, force_space=True))
    assert isinstance(forced, engine.Engine)
    forced.run()
    forced.rollback()
    with pytest.raises(NotEnoughSpace):
        made.run()
