"""Ways to a server: services, what the environment adds to a DSN, and a server that is too old."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests import conducting
from tests.conducting import seeded, version
from tests.servers import DatabaseFactory

from mandate.postgres import database as databases
from mandate.postgres.connection import Target

pytestmark = pytest.mark.slow


def test_the_database_of_a_service_is_the_one_that_is_migrated(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    service = tmp_path / "services.conf"
    lines = [f"{key}={value}" for key, value in {**target.parameters, "dbname": target.database}.items()]
    service.write_text("\n".join(["# ours", "[other]", "dbname=nothing", "[mine]", *lines, ""]))
    env = {"PGSERVICEFILE": str(service), "PGSERVICE": "mine"}
    done = conducting.run(target, tmp_path, env=env)
    assert done.code == 0, done.stderr
    assert version(target) == 8
    unknown = conducting.run(target, tmp_path, "--dry-run", "--dsn", "service=nope", env=env)
    assert unknown.code == 2
    assert "nope" in unknown.stderr


def test_programs_take_from_the_environment_what_the_dsn_leaves_open(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = seeded(database("v7"))
    env = {"PGPORT": target.parameters["port"], "PGUSER": target.parameters["user"]}
    dsn = f"host={target.parameters['host']} dbname={target.database}"
    done = conducting.run(target, tmp_path, "--yes", "--no-rehearsal", "--dsn", dsn, env=env)
    assert done.code == 0, done.stderr
    assert version(target) == 8


def test_postgresql_13_is_refused_with_3_and_nothing_is_written(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    with claiming_to_be(target, "13.16") as old:
        for arguments in (["run", "008", "--yes"], ["check", "008"], ["plan", "008"], ["rehearse", "008"]):
            done = conducting.command(old, tmp_path, *arguments, "--format", "json")
            assert done.code == 3, (arguments, done.stderr)
            assert done.json["error"]["code"] == "unsupported-server", arguments
            assert "13" in done.json["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_watch_does_not_wait_for_a_database_that_was_never_there(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7").with_database("mistyped")
    done = conducting.command(target, tmp_path, "watch")
    assert done.code == 9
    assert "mistyped" in done.stderr


def test_a_database_that_a_rollback_left_closed_says_how_it_is_opened(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    with databases.maintenance(target) as keeper:
        databases.allow_connections(keeper, target.database, False)
        done = conducting.command(target, tmp_path, "status")
        databases.allow_connections(keeper, target.database, True)
    assert done.code == 9
    assert "mandate rollback" in done.stderr


@contextmanager
def claiming_to_be(target: Target, release: str) -> Iterator[Target]:
    """The same server through a proxy that reports another server_version."""
    upstream = (target.parameters["host"], int(target.parameters["port"]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, upstream, release), daemon=True).start()
        port = str(listener.getsockname()[1])
        changed = {"host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        yield Target({**target.parameters, **changed})


def _accept(listener: socket.socket, upstream: tuple[str, int], release: str) -> None:
    # Closing the listener ends the loop, a peer that leaves ends its own thread.
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(upstream)
            threading.Thread(target=_forward, args=(client, server), daemon=True).start()
            threading.Thread(target=_rewrite, args=(server, client, release), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(65536):
            sink.sendall(data)


def _rewrite(server: socket.socket, client: socket.socket, release: str) -> None:
    """Message by message: a type, a length that counts itself, a body."""
    with suppress(OSError, struct.error), server, client, server.makefile("rb") as stream:
        while head := stream.read(5):
            kind, length = struct.unpack("!cI", head)
            body = stream.read(length - 4)
            if kind == b"S" and body.startswith(b"server_version\0"):
                body = b"server_version\0" + release.encode() + b"\0"
            client.sendall(kind + struct.pack("!I", len(body) + 4) + body)
