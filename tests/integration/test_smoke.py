"""Step smoke: against the real service on a real database, and against services that lie."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.commands import mandate, spawn
from tests.conftest import MIGRATIONS
from tests.servers import DatabaseFactory
from tests.stepping import FakeService, add_decisions, context, fake_service

from mandate.errors import UsageError, VerificationFailed
from mandate.postgres.connection import Target, connect
from mandate.postgres.script import Statement, read
from mandate.runbook import http, logs, smoke
from mandate.runbook.steps.s90_smoke import STEP

DECISION: dict[str, Any] = dict.fromkeys(smoke.DECISION_KEYS, "x")
VERDICT: dict[str, Any] = dict.fromkeys(smoke.VERDICT_KEYS, "x")
NOWHERE = f"/api/decisions?domain={smoke.NO_SUCH_DOMAIN}"


def page(name: str, *rows: Any, cursor: str | None = None) -> tuple[int, Any]:
    return 200, {name: list(rows), "next_cursor": cursor}


def finance(count: int) -> list[dict[str, Any]]:
    return [{**DECISION, "domain": "finance"}] * count


@pytest.fixture
def three(database: DatabaseFactory) -> Target:
    """A database with three decisions of finance and two of logistics."""
    target = database("v7")
    add_decisions(target, "finance", 3)
    add_decisions(target, "logistics", 2)
    return target


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A service that tells the truth about `three`."""
    with fake_service() as fake:
        both = [*finance(3), *[{**DECISION, "domain": "logistics"}] * 2]
        fake.answers = {
            "/api/decisions": page("decisions", *both),
            "/api/verdicts": page("verdicts", *[VERDICT] * 5),
            "/api/domains": page("domains", {"domain": "finance"}, {"domain": "logistics"}),
            "/api/decisions?domain=finance": page("decisions", *finance(3)),
            "/api/decisions?domain=logistics": page("decisions", *both[3:]),
            NOWHERE: page("decisions"),
        }
        yield fake


def settings(url: str, directory: Path, **smoke_settings: Any) -> dict[str, Any]:
    """A run that manages services, so that one which does not answer is a failure."""
    return {
        "services": {"kind": "command"},
        "smoke": {"base_url": url, "log_globs": [f"{directory}/*.log"], **smoke_settings},
    }


def fails(target: Target, service: FakeService, tmp_path: Path, **extra: Any) -> VerificationFailed:
    with pytest.raises(VerificationFailed) as caught:
        STEP.run(context(target, tmp_path, settings(service.url, tmp_path, **extra)))
    assert caught.value.exit_code == 6
    return caught.value


@contextmanager
def serving(target: Target, log_dir: Path) -> Iterator[str]:
    """`mandate serve` on a free port; its URL."""
    arguments = ("serve", "--port", "0", "--dsn", target.conninfo, "--log-dir", log_dir, "--format", "json")
    with spawn(*arguments) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.parametrize("kind", ["v7", "v8", "v9"])
def test_the_real_service_passes(database: DatabaseFactory, tmp_path: Path, kind: str) -> None:
    target = database("v7")
    add_decisions(target, "finance", 4)
    add_decisions(target, "logistics", 2)
    for file in {"v7": (), "v8": MIGRATION_FILES[:1], "v9": MIGRATION_FILES}[kind]:
        _migrate(target, file)
    with serving(target, tmp_path) as url:
        outcome = STEP.run(context(target, tmp_path, settings(url, tmp_path), {"stop": {"log_offsets": {}}}))
    evidence = outcome.evidence
    assert [call["ok"] for call in evidence["calls"]] == [True] * 5
    assert (evidence["domain"], evidence["rows_checked"]) == ("finance", 4)
    assert evidence["logs"]["found"] == 0
    assert evidence["logs"]["lines"] > 0
    assert outcome.warnings == ()


MIGRATION_FILES = ("008_rfc002_domain_identity_migration.sql", "009_tenant_keys.sql")


def _migrate(target: Target, file: str) -> None:
    with connect(target) as session:
        for part in read(MIGRATIONS / file):
            if isinstance(part, Statement):
                session.execute(part.sql.encode())


def test_a_truthful_service_passes(three: Target, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "serve.log").write_text("fine\n")
    outcome = STEP.run(
        context(three, tmp_path, settings(service.url, tmp_path), {"stop": {"log_offsets": {}}})
    )
    assert (
        outcome.summary
        == "5 of 5 calls right, 3 rows of finance compared; 0 findings in 1 new log lines of 1 files"
    )
    assert service.asked[:2] == ["/api/decisions", "/api/verdicts"]
    assert {"/api/decisions?domain=finance", NOWHERE} <= set(service.asked)


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "one row of another domain": (
        lambda a: a.update(
            {"/api/decisions?domain=finance": page("decisions", *finance(2), {**DECISION, "domain": "hr"})}
        ),
        "row 3 (x) is of domain 'hr', not 'finance'",
    ),
    "a row too few": (
        lambda a: a.update({"/api/decisions?domain=finance": page("decisions", *finance(2))}),
        "2 decisions answered and no further page, the database has 3",
    ),
    "a row too many": (
        lambda a: a.update({"/api/decisions?domain=finance": page("decisions", *finance(4))}),
        "4 decisions answered, the database has 3 of this domain",
    ),
    "an empty filtered page": (
        lambda a: a.update({"/api/decisions?domain=finance": page("decisions")}),
        "0 decisions answered and no further page, the database has 3",
    ),
    "an empty filtered page with a cursor": (
        lambda a: a.update({"/api/decisions?domain=finance": page("decisions", cursor="c")}),
        "0 decisions answered",
    ),
    "a filter that is ignored": (
        lambda a: a.update({NOWHERE: page("decisions", *finance(3))}),
        "3 decisions of a domain that does not exist: the filter is ignored",
    ),
    "no decisions at all": (
        lambda a: a.update({"/api/decisions": page("decisions")}),
        "no decisions answered, and the database has some",
    ),
    "no verdicts at all": (
        lambda a: a.update({"/api/verdicts": page("verdicts")}),
        "no verdicts answered, and the database has some",
    ),
    "a field is missing": (
        lambda a: a.update({"/api/verdicts": page("verdicts", {**VERDICT}, {"verdict_id": 1})}),
        "row 2 of verdicts has no decision_id, domain,",
    ),
    "another form": (
        lambda a: a.update({"/api/decisions": (200, [DECISION])}),
        'not of the form {"decisions": [...], "next_cursor": ...}',
    ),
    "rows that are no objects": (
        lambda a: a.update({"/api/verdicts": page("verdicts", 7)}),
        "row 1 of verdicts is not an object",
    ),
    "a server error": (
        lambda a: a.update({"/api/verdicts": (500, {"title": "it broke"})}),
        'answered 500: {"title": "it broke"}',
    ),
    "a redirect": (lambda a: a.update({"/api/verdicts": (302, b"")}), "answered 302"),
    "a page of HTML": (
        lambda a: a.update({"/api/verdicts": (200, b"<html>login</html>")}),
        "not JSON, application/json: <html>login</html>",
    ),
    "deeply nested JSON": (lambda a: a.update({"/api/verdicts": (200, b"[" * 200_000)}), "not JSON"),
    "an endless body": (
        lambda a: a.update({"/api/verdicts": (200, b"x" * (http.LIMIT_BYTES + 1))}),
        "longer than 16,777,216 bytes",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_service_that_lies_is_found_out(
    three: Target, service: FakeService, tmp_path: Path, lie: str
) -> None:
    change, said = LIES[lie]
    change(service.answers)
    error = fails(three, service, tmp_path)
    assert said in error.message
    assert service.url in error.message
    bad = [call for call in error.fields["evidence"]["calls"] if not call["ok"]]
    assert len(bad) == 1, "the other calls are still made and judged"


def test_the_chosen_domain_is_used(three: Target, service: FakeService, tmp_path: Path) -> None:
    outcome = STEP.run(context(three, tmp_path, settings(service.url, tmp_path, domain="logistics")))
    assert (outcome.evidence["domain"], outcome.evidence["rows_checked"]) == ("logistics", 2)
    assert "/api/domains" not in service.asked


def test_a_chosen_domain_without_decisions_shows_nothing(
    three: Target, service: FakeService, tmp_path: Path
) -> None:
    service.answers["/api/decisions?domain=hr+%26+co"] = page("decisions")
    error = fails(three, service, tmp_path, domain="hr & co")
    assert "the database has no decision of this domain" in error.message


def test_without_finance_another_domain_is_found(
    database: DatabaseFactory, service: FakeService, tmp_path: Path
) -> None:
    target = database("v7")
    add_decisions(target, "logistics", 2)
    outcome = STEP.run(context(target, tmp_path, settings(service.url, tmp_path)))
    assert (outcome.evidence["domain"], outcome.evidence["rows_checked"]) == ("logistics", 2)


def test_an_empty_database_passes_and_says_what_was_not_tested(
    database: DatabaseFactory, service: FakeService, tmp_path: Path
) -> None:
    for path, name in (("/api/decisions", "decisions"), ("/api/verdicts", "verdicts")):
        service.answers[path] = page(name)
    outcome = STEP.run(context(database("v7"), tmp_path, settings(service.url, tmp_path)))
    assert outcome.evidence["rows_checked"] == 0
    assert any("the domain filter was not tested" in warning for warning in outcome.warnings)


def test_a_service_that_hides_all_domains_is_found_out(
    three: Target, service: FakeService, tmp_path: Path
) -> None:
    service.answers["/api/domains"] = page("domains")
    service.answers["/api/decisions?domain=finance"] = page("decisions")
    assert "the database has 3" in fails(three, service, tmp_path).message


def test_findings_in_the_logs_fail_the_step(three: Target, service: FakeService, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("an old error\n")
    offsets = logs.mark([str(log)])
    with log.open("a") as out:
        out.write("fine\nunhandled Exception in request 7\n")
    here = context(three, tmp_path, settings(service.url, tmp_path), {"stop": {"log_offsets": offsets}})
    with pytest.raises(VerificationFailed, match=rf"{re.escape(str(log))}:3: unhandled Exception") as caught:
        STEP.run(here)
    assert caught.value.fields["evidence"]["logs"]["found"] == 1


def test_missing_logs_are_a_warning(three: Target, service: FakeService, tmp_path: Path) -> None:
    outcome = STEP.run(context(three, tmp_path, settings(service.url, tmp_path)))
    assert any("no log file matches" in warning for warning in outcome.warnings)
    assert outcome.evidence["logs"]["files"] == []


def test_nobody_listens(three: Target, service: FakeService, tmp_path: Path) -> None:
    service.url = "http://127.0.0.1:1"
    error = fails(three, service, tmp_path)
    assert "connection refused: nothing listens there" in error.message


def test_nobody_listens_and_no_service_is_managed(three: Target, tmp_path: Path) -> None:
    chosen = settings("http://127.0.0.1:1", tmp_path) | {"services": {"kind": "none"}}
    outcome = STEP.run(context(three, tmp_path, chosen))
    assert outcome.skipped
    assert "connection refused: nothing listens there" in outcome.summary
    assert "start the services" in outcome.warnings[0]


def test_a_lying_service_that_is_not_managed_fails_all_the_same(
    three: Target, service: FakeService, tmp_path: Path
) -> None:
    service.answers.clear()
    chosen = settings(service.url, tmp_path) | {"services": {"kind": "none"}}
    with pytest.raises(VerificationFailed):
        STEP.run(context(three, tmp_path, chosen))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "localhost:3000", "http://", "http://a b", "http://x:99999"]
)
def test_a_base_url_that_cannot_be_meant(three: Target, tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not an http or https URL"):
        STEP.run(context(three, tmp_path, settings(url, tmp_path)))


def test_a_service_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(http.NoAnswer, match="no answer in time"),
    ):
        http.get(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.3)


def test_a_service_that_drips_is_given_up() -> None:
    done = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            while not done.wait(0.05):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        try:
            with pytest.raises(http.NoAnswer, match="did not end in time"):
                http.get(f"http://127.0.0.1:{server.getsockname()[1]}/", 0.4)
        finally:
            done.set()
            thread.join()


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert http.get(f"{service.url}/api/domains", 10).status == 200


class TestCommand:
    def test_text_and_json(self, three: Target, service: FakeService, tmp_path: Path) -> None:
        (tmp_path / "serve.log").write_text("an old error\n")
        config = tmp_path / "mandate.toml"
        config.write_text(f'[smoke]\nlog_globs = ["{tmp_path}/*.log"]\n')
        arguments = ("smoke", "--base-url", service.url, "--dsn", three.conninfo, "--config", config)
        text = mandate(*arguments)
        assert text.returncode == 0, text.stderr
        assert f"ok    {service.url}/api/decisions?domain=finance" in text.stdout
        assert "3 decisions, each of domain finance" in text.stdout
        document = json.loads(mandate(*arguments, "--format", "json").stdout)
        assert document["schema"] == "mandate.smoke/1"
        assert (document["status"], document["rows_checked"]) == ("passed", 3)

    def test_failure_exits_6_and_json_says_why(
        self, three: Target, service: FakeService, tmp_path: Path
    ) -> None:
        service.answers["/api/verdicts"] = (503, {"title": "not ready"})
        done = mandate(
            "smoke", "--base-url", service.url, "--dsn", three.conninfo, "--format", "json", cwd=tmp_path
        )
        assert done.returncode == 6
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "verification-failed"
        assert [call["status"] for call in error["fields"]["evidence"]["calls"]] == [200, 503, 200, 200, 200]
        assert "answered 503" in done.stderr

    def test_since_looks_back(self, three: Target, service: FakeService, tmp_path: Path) -> None:
        (tmp_path / "serve.log").write_text("2026-01-31T02:00:01Z it failed\n2026-01-31T01:00:00Z error\n")
        config = tmp_path / "mandate.toml"
        config.write_text(f'[smoke]\nlog_globs = ["{tmp_path}/*.log"]\n')
        arguments = ("smoke", "--base-url", service.url, "--dsn", three.conninfo, "--config", config)
        done = mandate(*arguments, "--since", "2026-01-31T02:00:00+00:00")
        assert done.returncode == 6
        assert "serve.log:1: 2026-01-31T02:00:01Z it failed" in done.stderr
        assert "serve.log:2" not in done.stderr
        assert mandate(*arguments, "--since", "yesterday").returncode == 2

    def test_the_service_s_own_log_is_looked_at(
        self, three: Target, service: FakeService, tmp_path: Path
    ) -> None:
        (tmp_path / "mandate-serve.log").write_text("2026-01-31T02:00:01Z it failed\n")
        config = tmp_path / "mandate.toml"
        config.write_text('[smoke]\nlog_globs = []\n[serve]\nlog_dir = "."\n')
        arguments = ("smoke", "--base-url", service.url, "--dsn", three.conninfo, "--config", config)
        done = mandate(*arguments, "--since", "2026-01-31T02:00:00+00:00")
        assert (done.returncode, "mandate-serve.log:1: 2026-01-31T02:00:01Z it failed" in done.stderr) == (
            6,
            True,
        )

    def test_without_a_database_it_says_so(self, service: FakeService, tmp_path: Path) -> None:
        config = tmp_path / "mandate.toml"
        config.write_text(f'[embedded]\ndata_dir = "{tmp_path}/none"\n')
        service.answers["/api/decisions?domain=finance&limit=1"] = page("decisions", *finance(1))
        done = mandate("smoke", "--base-url", service.url, "--config", config)
        assert done.returncode == 0, done.stderr
        assert "no database: the answers were not held against it" in done.stdout
