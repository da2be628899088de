"""Key changes killed at every boundary, with PostgreSQL stopped under them, while writers keep a tally."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from tests.commands import MANDATE, clean_environment, mandate
from tests.servers import DatabaseFactory, running_server
from tests.shops import SHOP, TO_BIGINT, ShopWriter, create, schemas_left, writing

from mandate.postgres import embedded
from mandate.postgres.connection import Target, connect
from mandate.rekey import journal

pytestmark = pytest.mark.slow

PHASES = ("map", "shadow", "capture", "copy", "build", "catch up", "foreign keys", "verify", "cutover")


def spec_file(directory: Path) -> Path:
    path = directory / "shop.toml"
    path.write_text(TO_BIGINT)
    return path


def rekey(target: Target, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return mandate("rekey", *arguments, env={"DATABASE_URL": target.conninfo})


def killed_after(target: Target, spec: Path, phase: str) -> bool:
    """Start a run and kill it as soon as it says that a phase is over; False when it got to its end."""
    process = subprocess.Popen(
        [str(MANDATE), "rekey", "run", str(spec)],
        env=clean_environment({"DATABASE_URL": target.conninfo}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"{phase} +\d", line):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check(target: Target, writers: list[ShopWriter]) -> None:
    with connect(target) as session:
        for writer in writers:
            assert writer.failures == []
            writer.check(session)


def test_killed_after_every_phase_under_load_it_goes_on_and_loses_nothing(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("empty")
    create(target, SHOP)
    spec = spec_file(tmp_path)
    with writing(target) as writers:
        for phase in PHASES:
            assert killed_after(target, spec, phase), phase
        with connect(target) as session:
            change = journal.load(session, "shop")
        assert change is not None
        assert change.status == "swapped"
        done = rekey(target, "finalize", spec)
        assert done.returncode == 0, done.stderr
    check(target, writers)
    with connect(target) as session:
        assert schemas_left(session) == []


@pytest.mark.parametrize("phase", ["capture", "build", "verify"])
def test_aborted_after_a_kill_nothing_of_it_is_left(
    database: DatabaseFactory, tmp_path: Path, phase: str
) -> None:
    target = database("empty")
    create(target, SHOP)
    spec = spec_file(tmp_path)
    with writing(target) as writers:
        assert killed_after(target, spec, phase)
        done = rekey(target, "abort", spec)
        assert done.returncode == 0, done.stderr
    check(target, writers)
    with connect(target) as session:
        assert schemas_left(session) == []
        left = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
        assert session.rows(left.encode()) == []
        found = (
            "SELECT data_type FROM information_schema.columns"
            " WHERE table_name = 'orders' AND column_name = 'id'"
        )
        assert session.value(found.encode()) == "integer"
    again = rekey(target, "abort", spec)
    assert (again.returncode, again.stdout) == (0, "shop: nothing of it is left\n")


def test_held_paused_resumed_and_released_from_another_terminal(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("empty")
    create(target, SHOP)
    spec = spec_file(tmp_path)
    process = subprocess.Popen(
        [str(MANDATE), "rekey", "run", str(spec), "--hold-cutover"],
        env=clean_environment({"DATABASE_URL": target.conninfo}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await_reason(target, "held")
    assert rekey(target, "pause", spec).returncode == 0
    await_reason(target, "paused")
    assert "paused" in rekey(target, "status", spec).stdout
    assert rekey(target, "resume", spec).returncode == 0
    await_reason(target, "held")
    assert rekey(target, "cutover", spec).returncode == 0
    assert process.wait(60) == 0
    assert rekey(target, "rollback", spec).returncode == 0


def await_reason(target: Target, word: str) -> None:
    """Until the change says that it waits for that."""
    tick = threading.Event()
    for _ in range(1200):
        with connect(target) as session:
            if journal.exists(session) and word in (journal.waiting(session, "shop") or ""):
                return
        tick.wait(0.05)
    raise AssertionError(f"it never waited: {word}")


@pytest.mark.parametrize("phase", ["capture", "copy", "build", "foreign keys", "verify"])
def test_postgresql_stopped_immediately_it_goes_on(tmp_path: Path, phase: str) -> None:
    with running_server(18) as server:
        target = server.target("mandate")
        create(target, SHOP)
        with connect(target) as session:
            before = session.rows("SELECT t::text FROM shop.lines t ORDER BY order_id, line")
        spec = spec_file(tmp_path)
        assert killed_after(target, spec, phase)
        embedded.stop(server.data_dir, mode="immediate")
        embedded.start(server.data_dir, port=server.port)
        done = rekey(target, "run", spec)
        assert done.returncode == 0, done.stderr
        with connect(target) as session:
            assert session.rows("SELECT t::text FROM shop.lines t ORDER BY order_id, line") == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rekey"),
        ("[rekey]\nname = 'x'\n", "key"),
        ("[rekey]\nname = 'X Y'\n[[key]]\ntable='a.b'\ncolumns=['c']\n[[key.new]]\nname='d'\n", "name"),
        (TO_BIGINT.replace("shop.orders", "shop.nothing"), "there is no table shop.nothing"),
        (TO_BIGINT.replace('columns = ["id"]', 'columns = ["nothing"]'), "no column nothing"),
        (TO_BIGINT.replace('"id::bigint"', '"id); DROP TABLE shop.orders; SELECT (1"'), "expression"),
        (TO_BIGINT.replace('"bigint"', '"bigint); DROP TABLE shop.orders --"'), "type"),
        (TO_BIGINT + "\nsurprise = 1\n", "surprise"),
    ],
)
def test_a_spec_that_cannot_be_meant_changes_nothing(
    database: DatabaseFactory, tmp_path: Path, text: str, said: str
) -> None:
    target = database("empty")
    create(target, SHOP)
    spec = tmp_path / "bad.toml"
    spec.write_text(text)
    done = rekey(target, "run", spec)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    with connect(target) as session:
        assert schemas_left(session) == []
        assert session.value("SELECT count(*) FROM shop.orders") == 2000
