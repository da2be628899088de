"""Maps, capture, copy, catch up and verify, one by one: what they refuse, survive and prove."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests import rekeying
from tests.rekeying import COMPOSITE, INTEGERS, NAMES, Example
from tests.servers import DatabaseFactory

from mandate.cli import output
from mandate.errors import CheckFailed, DatabaseError, MigrationFailed, VerificationFailed
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Silent
from mandate.rekey import capture, catch_up, copying, maps, verify
from mandate.rekey.direction import BACK, FORWARD
from mandate.rekey.model import Graph

_INTEGERS_ROWS = b"""
INSERT INTO public.customers SELECT i, 'c' || i, 'e' || i FROM generate_series(1, 20) AS i;
INSERT INTO public.orders SELECT i, 1 + i % 20, NULL, i FROM generate_series(1, 3000) AS i;
INSERT INTO public.lines SELECT i, 1, repeat('x', 40) FROM generate_series(1, 3000) AS i;
"""
_NAMES_ROWS = b"""
INSERT INTO public.scopes SELECT gen_random_uuid(), 's' || i FROM generate_series(1, 20) AS i;
INSERT INTO public.events (scope_id, said)
    SELECT scope_id, 'x' FROM public.scopes, generate_series(1, 20);
INSERT INTO public.grants SELECT scope_id, 'who' FROM public.scopes;
"""
_COMPOSITE_ROWS = b"""
INSERT INTO public.domains SELECT gen_random_uuid(), 1 + i % 3, 'd' || i FROM generate_series(1, 20) AS i;
INSERT INTO public.decisions
    SELECT row_number() OVER (), organization_id, domain_id, 'x' FROM public.domains, generate_series(1, 20);
INSERT INTO public.verdicts SELECT domain_id, id, id FROM public.decisions;
INSERT INTO public.timeline (id, domain_id, number) SELECT number, domain_id, number FROM public.verdicts;
"""
_ROWS = {"integers": _INTEGERS_ROWS, "names": _NAMES_ROWS, "composite": _COMPOSITE_ROWS}


class _Heard(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.said = threading.Event()

    def line(self, text: str) -> None:
        self.lines.append(text)
        self.said.set()


@contextmanager
def _begun(target: Target, example: Example) -> Iterator[tuple[Session, Graph]]:
    graph = rekeying.begin(target, example)
    with rekeying.engine(target) as session:
        session.execute(_ROWS[example.name])
        yield session, graph


@contextmanager
def _copied(target: Target, example: Example) -> Iterator[tuple[Session, Graph]]:
    """Up to and with the foreign keys of the shadows."""
    with _begun(target, example) as (session, graph):
        _captured(session, graph)
        copying.run(rekeying.opener(target), graph, 2, Silent())
        _built(session, graph)
        yield session, graph


def _captured(session: Session, graph: Graph) -> None:
    maps.create(session, graph)
    maps.fill(session, graph)
    rekeying.shadows(session, graph)
    capture.install(session, graph, FORWARD)
    capture.wait_for_older(session)


def _built(session: Session, graph: Graph) -> None:
    catch_up.forget_logged(session, graph)
    rekeying.keys(session, graph)
    catch_up.batch(session, graph, FORWARD, None)
    rekeying.foreign_keys(session, graph)


def _log(session: Session, graph: Graph) -> list[tuple[str, list[str] | None]]:
    rows = session.rows(sql.SQL("SELECT tab, key FROM {} ORDER BY id").format(FORWARD.log(graph)))
    return [(graph.table(row["tab"]).old.name, row["key"]) for row in rows]


def _verify(target: Target, graph: Graph) -> list[verify.Proof]:
    return verify.run(rekeying.opener(target), graph, FORWARD, 2, Silent())


def _swapped(session: Session, graph: Graph) -> None:
    with session.transaction():
        catch_up.drain(session, graph, FORWARD)
        capture.remove(session, graph, FORWARD)
        rekeying.swap(session, graph)
        capture.install_now(session, graph, BACK)


# -- maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "damage", "named"),
    [
        (
            NAMES,
            b"ALTER TABLE public.scopes ALTER name DROP NOT NULL; UPDATE public.scopes SET name = NULL"
            b" WHERE name = 's7'",
            "no new key",
        ),
        (
            NAMES,
            b"ALTER TABLE public.scopes DROP CONSTRAINT scopes_name_key; UPDATE public.scopes SET name = 's1'"
            b" WHERE name = 's2'",
            "(scope.s1) comes 2 times",
        ),
        (
            COMPOSITE,
            b"UPDATE public.decisions SET organization_id = 99 WHERE id = 17",
            "public.decisions (id 17): organization_id is not that of the row",
        ),
        (
            COMPOSITE,
            b"ALTER TABLE public.decisions DROP CONSTRAINT decisions_domain_id_fkey;"
            b" UPDATE public.decisions SET domain_id = gen_random_uuid() WHERE id = 18",
            "public.decisions (id 18): domain_id is the key of no row of public.domains",
        ),
        (
            COMPOSITE,
            b"UPDATE public.domains SET parent_id = domain_id;"
            b" UPDATE public.decisions SET organization_id = NULL WHERE id = 19",
            "public.decisions (id 19): organization_id is not that of the row",
        ),
    ],
)
def test_fill_names_the_rows_that_have_no_new_key(
    database: DatabaseFactory, example: Example, damage: bytes, named: str
) -> None:
    target = database("empty")
    with _begun(target, example) as (session, graph):
        session.execute(damage)
        maps.create(session, graph)
        with pytest.raises(CheckFailed) as refused:
            maps.fill(session, graph)
    assert named in refused.value.message
    assert len(refused.value.fields["problems"]) <= 40


def test_fill_again_follows_the_parents(database: DatabaseFactory) -> None:
    with _begun(database("empty"), NAMES) as (session, graph):
        maps.create(session, graph)
        assert maps.fill(session, graph) == 20
        session.execute(b"""
            DELETE FROM public.grants; DELETE FROM public.events;
            DELETE FROM public.scopes WHERE name = 's1';
            UPDATE public.scopes SET name = 's1' WHERE name = 's2';
            INSERT INTO public.scopes VALUES (gen_random_uuid(), 's2'), (gen_random_uuid(), 'born')""")
        assert maps.fill(session, graph) == 21
        wrong = session.value(
            "SELECT count(*) FROM mandate_rekey_names.map_1 m FULL JOIN public.scopes s ON s.scope_id = m.o1"
            " WHERE m.n1 IS DISTINCT FROM 'scope.' || s.name"
        )
        assert wrong == 0


# -- capture ---------------------------------------------------------------------------------------------


def test_capture_writes_both_keys_and_nothing_else(database: DatabaseFactory) -> None:
    with _begun(database("empty"), INTEGERS) as (session, graph):
        _captured(session, graph)
        session.execute(b"""
            INSERT INTO public.customers VALUES (100, 'new');
            UPDATE public.customers SET name = 'x' WHERE id = 100;
            UPDATE public.customers SET id = 101 WHERE id = 100;
            DELETE FROM public.customers WHERE id = 101;
            TRUNCATE public.lines""")
        assert _log(session, graph) == [
            ("customers", ["100"]),
            ("customers", ["100"]),
            ("customers", ["100"]),
            ("customers", ["101"]),
            ("customers", ["101"]),
            ("lines", None),
        ]


def test_capture_sees_a_writer_without_rights_and_one_that_replicates(database: DatabaseFactory) -> None:
    target = database("empty")
    with _begun(target, INTEGERS) as (session, graph):
        _captured(session, graph)
        session.execute(b"GRANT INSERT ON public.customers TO pg_monitor")
        with connect(target) as client:
            client.execute("SET ROLE pg_monitor")
            client.execute("INSERT INTO public.customers VALUES (200, 'x')")
            client.execute("RESET ROLE")
            client.execute("SET session_replication_role = replica")
            client.execute("INSERT INTO public.customers VALUES (201, 'x')")
        assert _log(session, graph) == [("customers", ["200"]), ("customers", ["201"])]


def test_a_key_means_the_same_whatever_the_writer_has_set(database: DatabaseFactory) -> None:
    odd = Example(
        "odd",
        b"""CREATE TABLE owners (id int PRIMARY KEY);
        CREATE TABLE odd (at timestamptz, day date, f float8, raw bytea, c char(5),
            owner int REFERENCES owners, said text, PRIMARY KEY (at, day, f, raw, c))""",
        INTEGERS.spec.split("[[key]]")[0].replace("integers", "odd")
        + '[[key]]\ntable = "public.owners"\ncolumns = ["id"]\n'
        + '[[key.new]]\nname = "id"\ntype = "bigint"\nexpression = "id::bigint"\n',
    )
    target = database("empty")
    graph = rekeying.begin(target, odd)
    with rekeying.engine(target) as session:
        session.execute("INSERT INTO public.owners VALUES (1), (2)")
        _captured(session, graph)
        copying.run(rekeying.opener(target), graph, 1, Silent())
        _built(session, graph)
        with connect(target) as client:
            client.execute(b"""
                SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = -3;
                SET bytea_output = 'escape';
                INSERT INTO odd
                    VALUES ('2026-02-03 04:05:06.789012+01', '2026-02-03', 0.1 + 0.2, '\\x00ff5c', 'ab');
                UPDATE odd SET owner = 2, said = 'again'""")
        catch_up.batch(session, graph, FORWARD, 100)
        [_, proof] = _verify(target, graph)
        assert (proof.rows, proof.equal) == (1, True)


def test_install_says_who_holds_a_table_and_goes_on_when_it_is_free(database: DatabaseFactory) -> None:
    target = database("empty")
    heard = _Heard()
    with _begun(target, INTEGERS) as (session, graph), connect(target, application_name="slow") as client:
        maps.create(session, graph)
        with client.transaction():
            client.execute("UPDATE public.orders SET amount = 0 WHERE id = 1")
            thread = threading.Thread(target=capture.install, args=(session, graph, FORWARD, heard))
            thread.start()
            assert heard.said.wait(30)
            client.execute("UPDATE public.orders SET amount = 1 WHERE id = 1")
        thread.join(30)
        assert not thread.is_alive()
        assert f"pid {client.pid}" in heard.lines[0]
        assert "slow" in heard.lines[0]
        client.execute("UPDATE public.orders SET amount = 2 WHERE id = 1")
        assert _log(session, graph) == [("orders", ["1"])]


def test_wait_for_older_waits_for_a_prepared_transaction_and_names_it(database: DatabaseFactory) -> None:
    target = database("empty")
    heard = _Heard()
    with _begun(target, INTEGERS) as (session, graph), connect(target) as client:
        maps.create(session, graph)
        client.execute("BEGIN")
        client.execute("CREATE TABLE public.elsewhere ()")
        client.execute("PREPARE TRANSACTION 'forgotten'")
        capture.install(session, graph, FORWARD)
        thread = threading.Thread(target=capture.wait_for_older, args=(session, heard))
        thread.start()
        assert heard.said.wait(30)
        assert thread.is_alive()
        client.execute("ROLLBACK PREPARED 'forgotten'")
        thread.join(30)
        assert not thread.is_alive()
        assert "prepared transaction forgotten" in heard.lines[0]


def test_remove_leaves_no_trigger(database: DatabaseFactory) -> None:
    with _begun(database("empty"), INTEGERS) as (session, graph):
        _captured(session, graph)
        capture.remove(session, graph, FORWARD)
        capture.remove(session, graph, FORWARD)
        assert session.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


# -- copy ------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """Stands for a conductor that is killed."""


def test_a_killed_copy_resumes_at_the_chunks_that_are_missing(database: DatabaseFactory) -> None:
    target = database("empty")
    with _begun(target, INTEGERS) as (session, graph):
        _captured(session, graph)
        left = iter(range(3))

        def throttle() -> None:
            if next(left, None) is None:
                raise _Enough

        opener = rekeying.opener(target)
        with pytest.raises(_Enough):
            copying.run(opener, graph, 1, Silent(), throttle, target_seconds=1e-9)
        assert 0 < session.value("SELECT sum(rows) FROM mandate_rekey_integers.chunk") < 3000
        assert copying.run(opener, graph, 2, Silent()) == 6020
        assert copying.run(opener, graph, 2, Silent()) == 6020
        _built(session, graph)
        assert all(proof.equal for proof in _verify(target, graph))


def test_a_table_that_is_rewritten_under_the_copy_is_copied_whole(database: DatabaseFactory) -> None:
    """VACUUM FULL moves rows without a trigger: what a chunk did not see would be lost."""
    target = database("empty")
    with _begun(target, INTEGERS) as (session, graph):
        session.execute("DELETE FROM public.lines WHERE order_id < 1500")
        _captured(session, graph)
        calls = iter(range(1_000_000))

        def throttle() -> None:
            if next(calls) == 2:
                with connect(target) as client:
                    client.execute("VACUUM FULL public.lines")
                    client.execute("VACUUM FULL public.orders")

        copying.run(rekeying.opener(target), graph, 1, Silent(), throttle, target_seconds=1e-9)
        _built(session, graph)
        assert [proof.rows for proof in _verify(target, graph)] == [20, 3000, 1501]


# -- catch up --------------------------------------------------------------------------------------------


def test_a_small_batch_gets_past_rows_that_are_in_its_way(database: DatabaseFactory) -> None:
    """Two customers swap their unique e-mail, and an order goes with its lines: one log row at a time."""
    target = database("empty")
    with _copied(target, INTEGERS) as (session, graph):
        session.execute(b"""
            UPDATE public.customers SET email = 'spare' WHERE id = 1;
            UPDATE public.customers SET email = 'e1' WHERE id = 2;
            UPDATE public.customers SET email = 'e2' WHERE id = 1;
            DELETE FROM public.orders WHERE id < 10""")
        taken = 0
        while catch_up.backlog(session, graph, FORWARD):
            taken += catch_up.batch(session, graph, FORWARD, 1)
        assert taken == 3 + 2 * 9
        assert all(proof.equal and not proof.pending for proof in _verify(target, graph))


def test_rows_follow_a_parent_whose_key_changes(database: DatabaseFactory) -> None:
    """Names are passed on in a ring, so that each new key was another's before."""
    target = database("empty")
    with _copied(target, COMPOSITE) as (session, graph):
        session.execute(b"""
            UPDATE public.domains SET name = 'x' || name WHERE organization_id = 2;
            WITH ring AS (SELECT domain_id, lead(name, 1, 'xd1') OVER (ORDER BY name) AS next
                          FROM public.domains WHERE organization_id = 2)
            UPDATE public.domains d SET name = 'y' || r.next FROM ring r WHERE r.domain_id = d.domain_id;
            UPDATE public.domains SET name = substr(name, 3) WHERE organization_id = 2""")
        catch_up.batch(session, graph, FORWARD, 1)
        verified = _verify(target, graph)
        assert verified[0].pending == 0
        while catch_up.backlog(session, graph, FORWARD):
            catch_up.batch(session, graph, FORWARD, 50)
        assert [proof.rows for proof in _verify(target, graph)] == [20, 400, 400, 400]


def test_two_parents_that_would_get_one_key_stop_the_batch_with_their_name(database: DatabaseFactory) -> None:
    with _copied(database("empty"), NAMES) as (session, graph):
        session.execute(b"""
            ALTER TABLE public.scopes DROP CONSTRAINT scopes_name_key;
            UPDATE public.scopes SET name = 's1' WHERE name = 's2'""")
        with pytest.raises(CheckFailed, match=r"public\.scopes: .*scope\.s1"):
            catch_up.batch(session, graph, FORWARD, 10)
        session.execute(
            "UPDATE public.scopes SET name = 's2' WHERE ctid = (SELECT max(ctid) FROM public.scopes)"
        )
        assert catch_up.batch(session, graph, FORWARD, 10) == 2


def test_a_foreign_key_that_would_take_rows_along_is_refused(database: DatabaseFactory) -> None:
    with _copied(database("empty"), INTEGERS) as (session, graph):
        session.execute(b"""
            ALTER TABLE mandate_new_integers.lines DROP CONSTRAINT lines_order_id_fkey_new,
            ADD FOREIGN KEY (order_id) REFERENCES mandate_new_integers.orders ON DELETE CASCADE""")
        session.execute("UPDATE public.orders SET amount = 5 WHERE id = 5")
        with pytest.raises(MigrationFailed, match="lines_order_id_fkey"):
            catch_up.batch(session, graph, FORWARD, 10)


def test_tables_can_be_altered_after_a_drain(database: DatabaseFactory) -> None:
    with _copied(database("empty"), INTEGERS) as (session, graph):
        session.execute("CREATE SCHEMA public_too")
        session.execute("UPDATE public.customers SET name = 'late'")
        with session.transaction():
            assert catch_up.drain(session, graph, FORWARD) == 20
            for table in graph.tables:
                session.execute(
                    sql.SQL("ALTER TABLE {} SET SCHEMA public_too").format(FORWARD.destination(graph, table))
                )


def test_without_old_default_the_way_back_of_a_new_parent_is_refused(database: DatabaseFactory) -> None:
    spec = COMPOSITE.spec.replace('old_default = "gen_random_uuid()"\n', "")
    with _copied(database("empty"), Example("composite", COMPOSITE.ddl, spec)) as (session, graph):
        _swapped(session, graph)
        session.execute("UPDATE public.decisions SET said = 'known' WHERE id = 3")
        assert catch_up.batch(session, graph, BACK, 10) == 1
        session.execute("INSERT INTO public.domains (organization_id, domain) VALUES (7, 'born')")
        with pytest.raises(MigrationFailed, match=r"public\.domains"):
            catch_up.batch(session, graph, BACK, 10)


def test_rows_that_were_there_before_get_their_old_key_back(database: DatabaseFactory) -> None:
    target = database("empty")
    with _copied(target, COMPOSITE) as (session, graph):
        before = rekeying.contents(session, sql.Identifier("public", "decisions"))
        _swapped(session, graph)
        session.execute(b"""
            UPDATE public.decisions SET said = 'changed';
            INSERT INTO public.domains (organization_id, domain) VALUES (7, 'born');
            INSERT INTO public.decisions VALUES (9001, 7, 'born', 'x');
            UPDATE public.decisions SET said = 'x'""")
        catch_up.batch(session, graph, BACK, 10_000)
        after = rekeying.contents(session, sql.Identifier("mandate_pre_composite", "decisions"))
        assert set(before) < set(after)
        born = session.row("SELECT * FROM mandate_pre_composite.domains WHERE organization_id = 7")
        assert born is not None
        assert (born["name"], len(after) - len(before)) == ("born", 1)
        assert all(p.equal for p in verify.run(rekeying.opener(target), graph, BACK, 2, Silent()))


# -- verify ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"DELETE FROM mandate_new_integers.lines WHERE order_id = 77", "(77,1) is missing"),
        (b"INSERT INTO mandate_new_integers.lines VALUES (77, 2, 'x')", "(77,2) should not be there"),
        (b"UPDATE mandate_new_integers.lines SET note = NULL WHERE order_id = 77", "(77,1) differs"),
    ],
)
def test_verify_names_the_row(database: DatabaseFactory, damage: bytes, said: str) -> None:
    target = database("empty")
    with _copied(target, INTEGERS) as (session, graph):
        session.execute(damage)
        with pytest.raises(VerificationFailed) as failed:
            _verify(target, graph)
    assert failed.value.fields["rows"] == [f"public.lines: the row with order_id, line = {said}"]
    equal = {proof["table"]: proof["equal"] for proof in failed.value.fields["proofs"]}
    assert equal == {"public.customers": True, "public.orders": True, "public.lines": False}


def test_verify_leaves_out_what_is_still_to_be_caught_up(database: DatabaseFactory) -> None:
    target = database("empty")
    with _copied(target, COMPOSITE) as (session, graph):
        session.execute(b"""
            UPDATE public.domains SET name = name || '-renamed' WHERE name = 'd3';
            DELETE FROM public.timeline WHERE id = 5;
            UPDATE public.verdicts SET decision_id = 1 WHERE number = 9""")
        proofs = {proof.table: proof for proof in _verify(target, graph)}
        assert all(proof.equal for proof in proofs.values())
        assert {name: proof.pending for name, proof in proofs.items()} == {
            "public.domains": 1,
            "public.decisions": 0,
            "public.verdicts": 1,
            "public.timeline": 1,
        }
        assert proofs["public.timeline"].rows == 399


def test_what_a_batch_cannot_do_is_told(
    database: DatabaseFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that was raised from itself was looked through for its causes for ever."""
    with _copied(database("empty"), INTEGERS) as (session, graph):
        session.execute("DELETE FROM public.lines WHERE order_id = 1")
        session.execute(sql.SQL("ALTER TABLE {} RENAME TO away").format(FORWARD.log(graph)))
        with pytest.raises(DatabaseError, match="does not exist") as failed:
            catch_up.batch(session, graph, FORWARD, None)
        error = failed.value
        assert error.__cause__ is not error
        error.__cause__ = error
        output.complain(error)
    assert "does not exist" in capsys.readouterr().err
