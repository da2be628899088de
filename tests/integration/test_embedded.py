"""The embedded server: started, found, stopped, and never confused with anybody else's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.commands import as_user, spawn
from tests.servers import UNSAFE_AND_FAST, temporary_directory

from mandate.errors import DiskFull, EmbeddedServerError, MandateError, UsageError
from mandate.postgres import embedded, embedded_cluster, embedded_host, programs
from mandate.postgres.connection import connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.postgres.embedded_cluster import Layout
from mandate.progress import Silent

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def place(open_directory: Path) -> Iterator[Path]:
    """A data directory that does not exist yet; whatever runs in it afterwards is stopped."""
    directory = open_directory / "pg"
    yield directory
    if embedded.status(directory).pid:
        embedded.stop(directory, mode="immediate")


@pytest.fixture
def server(place: Path) -> EmbeddedServer:
    return begin(place)


def begin(directory: Path, *, port: int = 0, version: int | None = None) -> EmbeddedServer:
    return embedded.start(directory, version=version, port=port, options=UNSAFE_AND_FAST)


def ask(server: EmbeddedServer, question: bytes, database: str = "postgres") -> object:
    with connect(server.target(database)) as session:
        return session.value(question)


@contextmanager
def listener() -> Iterator[int]:
    """A port that somebody else, this process, listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


class Heard(Silent):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("version", [18, 16])
def test_a_new_cluster_is_what_the_guide_needs(place: Path, version: int) -> None:
    assert embedded.status(place).state == "not-initialised"
    server = begin(place, version=version)
    assert server.version == version
    assert ask(server, b"SHOW data_checksums") == "on"
    assert (
        ask(
            server,
            b"SELECT pg_encoding_to_char(encoding) || datcollate FROM pg_database WHERE datname = 'mandate'",
        )
        == "UTF8C"
    )
    assert ask(server, b"SELECT session_user::text", "mandate") == "postgres"
    assert ask(server, b"SELECT current_setting('server_version_num')::int / 10000") == version
    socket_file = server.socket_dir / f".s.PGSQL.{server.port}"
    assert socket_file.is_socket()


def test_start_and_stop_are_idempotent(server: EmbeddedServer, place: Path) -> None:
    assert begin(place) == server
    assert embedded.running(place) == server
    assert embedded.stop(place) is True
    assert embedded.stop(place) is False
    assert embedded.running(place) is None
    assert embedded.status(place).state == "stopped"


def test_data_outlives_a_restart(server: EmbeddedServer, place: Path) -> None:
    with connect(server.target("mandate")) as session:
        session.execute("CREATE TABLE kept AS SELECT 42 AS n")
    embedded.stop(place)
    assert ask(begin(place), b"SELECT n FROM kept", "mandate") == 42


def test_the_server_outlives_the_process_group_that_started_it(place: Path) -> None:
    starter = spawn("db", "start", "--data-dir", place, "--port", "0")
    starter.communicate(timeout=120)
    with pytest.raises(ProcessLookupError):  # nothing of the server is left in the starter's group
        os.killpg(starter.pid, signal.SIGKILL)
    server = embedded.running(place)
    assert server is not None
    assert os.getsid(server.pid) != starter.pid
    assert ask(server, b"SELECT 1") == 1


def test_concurrent_starts_end_with_one_server(place: Path) -> None:
    starters = [spawn("db", "start", "--data-dir", place, "--port", "0", "--format", "json") for _ in "123"]
    answers = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0, 0], answers
    server = embedded.running(place)
    assert server is not None
    assert all(f'"pid": {server.pid},' in out for out, _ in answers)


def test_a_killed_server_is_recovered(server: EmbeddedServer, place: Path) -> None:
    with connect(server.target("mandate")) as session:
        session.execute("SET synchronous_commit = on")
        session.execute("CREATE TABLE kept AS SELECT 7 AS n")
        os.kill(server.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(server.pid)] if psutil.pid_exists(server.pid) else [], timeout=10)
    assert embedded.status(place).state == "stale-pid"
    assert embedded.stop(place) is False
    again = begin(place)
    assert again.pid != server.pid
    assert ask(again, b"SELECT n FROM kept", "mandate") == 7


def test_a_pid_file_whose_pid_now_belongs_to_somebody_else(server: EmbeddedServer, place: Path) -> None:
    """As after a reboot: the number in postmaster.pid is another process of the same user."""
    layout = Layout.of(place)
    saved = layout.pid_file.read_text()
    owner = layout.pid_file.stat()
    embedded.stop(place)
    user, group = (owner.st_uid, owner.st_gid) if AS_ROOT else (None, None)
    other = subprocess.Popen(["sleep", "600"], user=user, group=group)
    try:
        layout.pid_file.write_text("\n".join([str(other.pid), *saved.splitlines()[1:]]) + "\n")
        assert embedded.status(place).state == "stale-pid"
        assert embedded.stop(place) is False
        begin(place)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("content", ["", "12\n", "99999999999999999999\nx\n1\n2\n"])
def test_a_damaged_pid_file_means_not_running(server: EmbeddedServer, place: Path, content: str) -> None:
    layout = Layout.of(place)
    embedded.stop(place)
    layout.pid_file.write_text(content)
    assert embedded.running(place) is None
    assert ask(begin(place), b"SELECT 1") == 1


def test_a_directory_that_is_not_ours_is_left_untouched(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    for act in (embedded.start, embedded.stop):
        with pytest.raises(EmbeddedServerError, match=r"not empty.*left untouched"):
            act(place)
    assert embedded.status(place).state == "foreign"
    assert [entry.name for entry in place.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("marker", ["", "{", "[]", '{"kind": "something else"}', "\x00\xff"])
def test_a_marker_that_is_not_ours_does_not_make_a_directory_ours(place: Path, marker: str) -> None:
    place.mkdir()
    (place / "mandate.json").write_text(marker)
    with pytest.raises(EmbeddedServerError, match="left untouched"):
        embedded.start(place)


def test_another_postgresql_s_data_directory_is_not_ours(server: EmbeddedServer, place: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="left untouched"):
        embedded.stop(place / "cluster")
    assert ask(server, b"SELECT 1") == 1


def test_a_file_instead_of_a_directory(open_directory: Path) -> None:
    file = open_directory / "file"
    file.write_text("x")
    with pytest.raises(EmbeddedServerError, match="is a file, not a directory"):
        embedded.start(file)
    with pytest.raises(EmbeddedServerError, match="cannot be used: Not a directory"):
        embedded.start(file / "below")
    assert embedded.status(file / "below").server is None


@pytest.mark.parametrize("name", ["o'clock, sharp", "ünïcode; & 数据"])
def test_odd_paths_work(open_directory: Path, name: str) -> None:
    directory = open_directory / name
    try:
        assert ask(begin(directory), b"SELECT 1") == 1
    finally:
        assert embedded.stop(directory, mode="immediate") is True


@pytest.mark.parametrize("name", ["$(touch pwned)", "`x`", 'quo"te', "back\\slash", "new\nline", "$HOME"])
def test_paths_that_a_shell_would_read_are_refused(open_directory: Path, name: str) -> None:
    with pytest.raises(EmbeddedServerError, match="cannot quote"):
        embedded.start(open_directory / name)
    assert list(open_directory.iterdir()) == []


def test_a_path_too_long_for_a_socket_gets_a_private_one_elsewhere(open_directory: Path) -> None:
    directory = open_directory / ("d" * 100) / "pg"
    server = begin(directory)
    try:
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        assert (server.socket_dir / f".s.PGSQL.{server.port}").is_socket()
        embedded.stop(directory)
        assert begin(directory).socket_dir == server.socket_dir
    finally:
        embedded.stop(directory, mode="immediate")
        server.socket_dir.rmdir()


def test_a_taken_port_is_refused_and_its_holder_named(place: Path) -> None:
    with listener() as port, pytest.raises(EmbeddedServerError) as caught:
        begin(place, port=port)
    assert f"port {port} is taken by" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
    assert embedded.status(place).state == "not-initialised"


def test_without_a_port_the_default_then_the_last_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = embedded_host.free_port()
    monkeypatch.setattr(embedded, "DEFAULT_PORT", default)
    assert embedded.start(place).port == default
    embedded.stop(place)
    with listener() as taken:
        monkeypatch.setattr(embedded, "DEFAULT_PORT", taken)
        heard = Heard()
        assert embedded.start(place, reporter=heard).port == default
        assert f"port {taken} is taken" in heard.lines[0]
        assert f"using {default}" in heard.lines[0]


def test_another_server_on_our_last_port_is_not_ours(server: EmbeddedServer, open_directory: Path) -> None:
    other = open_directory / "other"
    embedded.start(other, port=0, options=UNSAFE_AND_FAST)
    embedded.stop(other)
    embedded_cluster.write_marker(Layout.of(other), port=server.port)
    assert embedded.running(other) is None
    assert embedded.stop(other) is False
    assert ask(server, b"SELECT 1") == 1


def test_a_running_server_is_not_moved_to_another_port(server: EmbeddedServer, place: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=f"runs already, on port {server.port}"):
        embedded.start(place, port=embedded_host.free_port())


@pytest.mark.parametrize("stopped", [True, False])
def test_another_version_is_refused(server: EmbeddedServer, place: Path, stopped: bool) -> None:
    if stopped:
        embedded.stop(place)
    with pytest.raises(EmbeddedServerError, match="is PostgreSQL 18, not 16"):
        embedded.start(place, version=16)


def test_a_version_that_nobody_has(place: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 9 does not come with this package"):
        embedded.start(place, version=9)


def test_a_damaged_cluster_shows_the_server_s_own_words(server: EmbeddedServer, place: Path) -> None:
    embedded.stop(place)
    (place / "cluster" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedServerError, match=r"did not start.*(?s:.*)pg_control") as caught:
        begin(place)
    assert "postgresql.log" in str(caught.value.hint)


def test_a_cluster_without_its_version_is_called_damaged(server: EmbeddedServer, place: Path) -> None:
    embedded.stop(place)
    (place / "cluster" / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedServerError, match="damaged: PG_VERSION"):
        begin(place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"no_such_setting": "1"}, "no_such_setting"),
        ({"work_mem": "lots"}, "work_mem"),
        ({"evil' = 1\nfsync": "off"}, "is not the name of a PostgreSQL setting"),
    ],
)
def test_bad_options_are_named(place: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(EmbeddedServerError, match=words):
        embedded.start(place, port=0, options=options)
    assert embedded.running(place) is None


def test_an_option_s_value_is_only_a_value(place: Path) -> None:
    hostile = "a'; x\\'\\\nfsync = off"
    with pytest.raises(EmbeddedServerError, match="did not start"):
        embedded.start(place, port=0, options={"cluster_name": hostile})
    server = embedded.start(place, port=0, options={"cluster_name": hostile.replace("\n", " ")})
    assert ask(server, b"SHOW fsync") == "on"


def test_an_unknown_way_to_stop(server: EmbeddedServer, place: Path) -> None:
    with pytest.raises(UsageError, match="gently"):
        embedded.stop(place, mode="gently")
    assert embedded.running(place) == server


def _wait_for(process: subprocess.Popen[str], reached: Callable[[], object]) -> None:
    while not reached():
        assert process.poll() is None, "it ended before the moment was reached"
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_creation_leaves_no_half_cluster(place: Path, number: signal.Signals) -> None:
    starter = spawn("db", "start", "--data-dir", place, "--port", "0")
    _wait_for(starter, lambda: list(place.glob("new-cluster-*/base")))
    starter.send_signal(number)
    starter.communicate(timeout=60)
    assert starter.returncode == {2: 130, 15: 143, 9: -9}[number]
    assert not (place / "cluster").exists()
    if number != signal.SIGKILL:
        assert list(place.glob("new-cluster-*")) == []
    assert embedded.status(place).state == "not-initialised"
    assert ask(begin(place), b"SELECT 1", "mandate") == 1
    assert list(place.glob("new-cluster-*")) == []


def test_a_start_waits_for_an_initdb_whose_starter_was_killed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = spawn("db", "start", "--data-dir", place, "--port", "0")
    _wait_for(starter, lambda: list(place.glob("new-cluster-*/base")))
    (initdb,) = [one for one in psutil.Process(starter.pid).children() if one.name() == "initdb"]
    initdb.suspend()
    starter.kill()
    starter.communicate()
    monkeypatch.setattr(embedded_cluster, "LOCK_WAIT_SECONDS", 0.2)
    with pytest.raises(EmbeddedServerError, match="has not ended"):
        begin(place)
    monkeypatch.undo()
    initdb.resume()
    assert ask(begin(place), b"SELECT 1") == 1
    assert list(place.glob("new-cluster-*")) == []


@contextmanager
def small_disk(mebibytes: int) -> Iterator[Path]:
    """A tmpfs of this size; skips where mounting is not permitted."""
    with temporary_directory() as place:
        argv = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "mandate-test", str(place)]
        try:
            subprocess.run(argv, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small file system can be mounted here: {error}")
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("mebibytes", [2, 20, 36])
def test_a_disk_that_fills_up_during_creation(mebibytes: int) -> None:
    with small_disk(mebibytes) as disk:
        with pytest.raises(DiskFull, match="not enough disk space") as caught:
            embedded.start(disk / "pg", port=0)
        assert "about 100 MiB" in str(caught.value.hint)
        assert list((disk / "pg").glob("*cluster*")) == []


def test_a_mount_point_can_be_the_data_directory() -> None:
    with small_disk(400) as disk:
        server = begin(disk)
        assert ask(server, b"SELECT 1") == 1
        embedded.stop(disk)


def test_root_s_server_runs_as_another_user(server: EmbeddedServer) -> None:
    assert psutil.Process(server.pid).uids().real != 0


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
class TestAsRoot:
    def test_an_ordinary_user_runs_its_own_server(self, open_directory: Path) -> None:
        home = open_directory / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        server = as_user("nobody", lambda: begin(home / "pg"))
        try:
            assert psutil.Process(server.pid).username() == "nobody"
            assert embedded.running(home / "pg") == server
            assert as_user("nobody", lambda: ask(server, b"SELECT 1")) == 1
            assert as_user("nobody", lambda: embedded.stop(home / "pg")) is True
        finally:
            embedded.stop(home / "pg", mode="immediate")

    def test_somebody_else_sees_root_s_server_but_cannot_stop_it(
        self, server: EmbeddedServer, place: Path
    ) -> None:
        assert as_user("nobody", lambda: embedded.running(place)) == server
        for act in (embedded.stop, begin):
            message = as_user("nobody", partial(_message, partial(act, place)))
            assert "belongs to user" in message
        embedded.stop(place)
        assert as_user("nobody", lambda: embedded.status(place)).state == "stopped"

    def test_a_directory_that_may_not_be_written(self, open_directory: Path) -> None:
        message = as_user("nobody", lambda: _message(lambda: begin(open_directory / "pg")))
        assert "cannot be used: Permission denied" in message

    def test_a_directory_that_the_server_s_user_cannot_enter(self, open_directory: Path) -> None:
        closed = open_directory / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(EmbeddedServerError, match=f"cannot enter {closed}") as caught:
            begin(closed / "pg")
        assert f"chmod o+x {closed}" in str(caught.value.hint)

    def test_a_caller_who_need_not_ask_gets_a_reachable_directory(self, open_directory: Path) -> None:
        closed = open_directory / "closed"
        closed.mkdir(mode=0o700)
        assert embedded.reachable(open_directory / "pg") == open_directory / "pg"
        elsewhere = embedded.reachable(closed / "deep" / "pg")
        assert elsewhere.is_relative_to("/var/lib/mandate")
        assert elsewhere == embedded.reachable(closed / "deep" / "pg")
        assert elsewhere != embedded.reachable(closed / "pg")

    def test_programs_in_a_private_directory_are_copied(
        self, open_directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private = open_directory / "root" / "site-packages"
        private.mkdir(parents=True)
        private.parent.chmod(0o700)
        original = programs.embedded_root()
        hard_copy = ["cp", "-al" if original.stat().st_dev == private.stat().st_dev else "-a"]
        for source in (original, original.parent / embedded_host.LIBRARIES):
            subprocess.run([*hard_copy, str(source), str(private)], check=True)
        hidden = private / original.name
        monkeypatch.setattr(embedded_host, "embedded_root", lambda: hidden)
        monkeypatch.setattr(embedded_host, "embedded_bin", lambda major: hidden / "pginstall18" / "bin")
        monkeypatch.setattr(embedded_host, "SHARED_STATE", open_directory / "state")
        server = begin(open_directory / "pg")
        try:
            program = Path(psutil.Process(server.pid).exe())
            assert program.is_relative_to(open_directory / "state" / "runtime")
            assert ask(server, b"SELECT 1") == 1
        finally:
            embedded.stop(open_directory / "pg", mode="immediate")
        assert [entry.name for entry in (open_directory / "state" / "runtime").glob(".copy-*")] == []


def _message(act: Callable[[], object]) -> str:
    try:
        act()
    except MandateError as error:
        return error.message
    return "no error"


def test_a_start_during_a_smart_shutdown_waits_for_it(server: EmbeddedServer, place: Path) -> None:
    with connect(server.target()) as session:
        os.kill(server.pid, signal.SIGTERM)  # smart: waits for this session
        starter = spawn("db", "start", "--data-dir", place, "--port", "0", "--format", "json")
        with pytest.raises(subprocess.TimeoutExpired):
            starter.communicate(timeout=3)
        session.value("SELECT 1")
    out, _ = starter.communicate(timeout=60)
    again = embedded.running(place)
    assert again is not None
    assert again.pid != server.pid
    assert f'"pid": {again.pid},' in out


def test_status_of_a_server_says_where_it_is(server: EmbeddedServer, place: Path) -> None:
    found = embedded.status(place)
    assert found.state == "running"
    assert (found.port, found.pid, found.version) == (server.port, server.pid, 18)
    assert found.log is not None
    assert found.log.read_text()
    assert found.started_at is not None
