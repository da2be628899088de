"""The guide's own bash blocks, pasted one after the other into one shell, do what the guide says.

Apart from the errata: hosts that only the guide's authors have, `tail -f` and `watch`, which never end,
and `docker-compose`/`systemctl`, whose place the process adapter's service takes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers import UNSAFE_AND_FAST, temporary_directory

from mandate.controlplane import seed
from mandate.postgres import embedded
from mandate.postgres.embedded_host import free_port
from mandate.runbook import http, migrations

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GUIDE = (HERE / "MIGRATION-EXECUTION-GUIDE.md").read_text("utf-8")
MANDATE = [sys.executable, "-m", "mandate"]
MARK = "@@@ block {} @@@"

pytestmark = pytest.mark.slow


def block(heading: str, number: int = 0) -> str:
    """The n-th bash block below a heading of the guide."""
    section = GUIDE.split(f"\n{heading}\n", 1)[1]
    section = re.split(r"\n##+ ", section, maxsplit=1)[0]
    found: str = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[number]
    return found


def without(text: str, *commands: str) -> str:
    """The block without commands that never end."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(commands))


@dataclass
class World:
    """A checkout as an operator has it, an embedded server, a service."""

    directory: Path
    data_dir: Path
    port: int
    service: subprocess.Popen[bytes] | None = None

    def start_service(self) -> None:
        argv = [*MANDATE, "serve", "--port", str(self.port), "--log-dir", str(self.directory / "log")]
        argv += ["--dsn", self.dsn]
        self.service = subprocess.Popen(argv, cwd=self.directory)
        for _ in range(600):
            try:
                if http.get(f"http://localhost:{self.port}/readyz", 5, limit_bytes=4096).status == 200:
                    return
            except http.NoAnswer:
                pass
            with_timeout(self.service)
        raise AssertionError("the service did not become ready")

    def stop_service(self) -> None:
        if self.service is not None:
            self.service.send_signal(signal.SIGTERM)
            assert self.service.wait(30) == 0
            self.service = None

    @property
    def dsn(self) -> str:
        server = embedded.running(self.data_dir)
        assert server is not None
        return server.target("mandate").conninfo

    def shell(self, *blocks: str) -> list[str]:
        """Paste blocks into one shell, as after `eval "$(mandate db env)"`; what each printed."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        exports = subprocess.run(
            [*MANDATE, "db", "env", "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        script = [exports]
        for number, text in enumerate(blocks):
            script += [f"echo '{MARK.format(number)}'", self.here(text)]
        done = subprocess.run(
            ["bash", "-s"],
            input="\n".join(script),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=env,
            timeout=300,
            check=False,
        )
        pieces = re.split(r"@@@ block \d+ @@@\n", done.stdout)
        assert len(pieces) == len(blocks) + 1, done.stdout
        return pieces[1:]

    def here(self, text: str) -> str:
        """The service's port and log directory of this world instead of the guide's."""
        return text.replace("localhost:3000", f"localhost:{self.port}").replace(
            "/var/log/mandate", str(self.directory / "log")
        )


def with_timeout(process: subprocess.Popen[bytes]) -> None:
    """Give a starting process a tenth of a second, and notice when it has ended."""
    try:
        raise AssertionError(f"the service ended with {process.wait(0.1)}")
    except subprocess.TimeoutExpired:
        return


@contextmanager
def world(version: int) -> Iterator[World]:
    with temporary_directory() as place:
        checkout = place / "checkout"
        (checkout / "backups").mkdir(parents=True)
        shutil.copytree(ROOT / "migrations", checkout / "migrations")
        server = embedded.start(place / "pg", version=version, port=0, options=UNSAFE_AND_FAST)
        made = World(checkout, server.data_dir, free_port())
        try:
            target = server.target("mandate")
            migrations.init(target, to=7)
            seed.load(target, seed.Parameters(decisions=2000))
            made.start_service()
            yield made
        finally:
            if made.service is not None:
                made.service.kill()
                made.service.wait()
            embedded.stop(server.data_dir)


@pytest.mark.parametrize("version", [18, 16])
def test_the_blocks_of_the_guide_in_order(version: int) -> None:
    with world(version) as place:
        before_restart = (
            block("### 2. Create Backup"),
            block("### 4. Run Pre-Migration Checks (5 min)"),
            block("### 5. Run Migration (5-30 min depending on data size)"),
            block("### 6. Run Post-Migration Verification (5-10 min)"),
            block("### 7. Test Constraints"),
            block("### 8. Test scope_id Prefix Validation"),
            'echo "BACKUP_FILE=$BACKUP_FILE elapsed=$elapsed" > variables',
        )
        place.stop_service()
        backup, checks, migration, verification, constraints, scopes, _ = place.shell(*before_restart)
        place.start_service()
        smoke, record, post_checks = place.shell(
            without(block("### 10. Smoke Tests (10-15 min)"), "tail -f"),
            ". ./variables\n" + block("### 11. Document Completion"),
            block("### Post-checks fail"),
        )
        _backup_was_made(backup)
        _checks_passed(checks)
        _migrated(migration)
        _verified(verification)
        _constraints_hold(constraints, scopes)
        _service_answers(smoke)
        _recorded(place, record)
        assert "RFC-002 v1.2 Domain Identity Migration" in post_checks


def _backup_was_made(said: str) -> None:
    assert "TABLE DATA mandate decision_events" in said or "Archive created at" in said
    assert re.search(r"mandate_backup_\d{8}_\d{6}\.sql", said)


def _checks_passed(said: str) -> None:
    assert "=== CHECK 1: Domain Data Availability ===" in said
    assert re.search(r"^domains table row count: [1-9]\d*$", said, re.M)
    for line in (
        "domain_id NULL count: 0",
        "name (future domain) NULL count: 0",
        "scopes.domain_id -> domains.domain_id orphans: 0",
        "policy_snapshots.domain_id -> domains.domain_id orphans: 0",
        "=== MIGRATION READINESS SUMMARY ===",
        'If all "result" values are 0 (except for row counts), migration is SAFE to proceed.',
    ):
        assert line in said.splitlines()


def _migrated(said: str) -> None:
    lines = said.splitlines()
    assert lines[0] == "Starting RFC-002 Domain Identity Migration..."
    wanted = [
        r"BEGIN",
        r"SET",
        r"UPDATE [1-9]\d* \(scopes\.domain backfill\)",
        r"UPDATE [1-9]\d* \(policy_snapshots\.domain backfill\)",
        r"ALTER TABLE.*",
        r"CREATE FUNCTION.*",
        r"CREATE TRIGGER.*",
        r"CREATE INDEX.*",
        r"INSERT 0 1 \(migration_log\)",
        r"COMMIT",
        r"Migration completed in \d+ seconds",
    ]
    for pattern in wanted:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
    assert "ERROR" not in said


def _verified(said: str) -> None:
    for line in (
        "=== VERIFICATION 1: domain_id Column Removal ===",
        "Remaining domain_id columns in mandate schema: 0",
        "=== VERIFICATION 2: Domain Column Configuration ===",
        "table_name | data_type",
        "scopes | text",
        "policy_snapshots | text",
        "=== VERIFICATION 3: scope_id Type Conversion ===",
        "data_type: text",
        "=== VERIFICATION 4: scope_id Domain Prefix Consistency ===",
        "scopes_with_domain_prefix_mismatch: 0",
    ):
        assert line in said.splitlines()
    assert re.search(r"^scopes_with_domain_prefix_match: [1-9]\d*$", said, re.M)


def _constraints_hold(constraints: str, scopes: str) -> None:
    assert "INSERT 0 1" in constraints.splitlines()
    assert 'ERROR:  new row for relation "domains" violates check constraint' in constraints
    assert "INSERT 0 1" in scopes.splitlines()
    assert (
        "ERROR:  GOVERNANCE VIOLATION: scope_id 'wrong-domain.prod.service.agent'"
        " does not embed domain prefix 'test-domain'" in scopes
    )


def _service_answers(said: str) -> None:
    assert '"decisions": [' in said
    assert '"verdicts": [' in said
    domains = set(re.findall(r'"domain": "([^"]+)"', said.split('"verdicts": [', 1)[1]))
    assert "finance" in domains
    assert not re.search(r"error|exception|fail", said.split('"next_cursor"')[-1], re.I)


def _recorded(place: World, said: str) -> None:
    log = (place.directory / "migration_008_execution_log.txt").read_text()
    assert log.startswith("Migration: 008 - RFC-002 Domain Identity\nExecuted: ")
    assert re.search(r"^Domain ID columns removed: +0$", log, re.M), said
    assert re.search(r"^scope_id TEXT columns: +1$", log, re.M)
    link = place.directory / "latest_mandate_backup.sql"
    assert link.is_symlink()
    assert link.resolve().parent == (place.directory / "backups").resolve()


def test_the_troubleshooting_of_the_guide_before_the_migration() -> None:
    with world(18) as place:
        nulls, constraint = place.shell(
            block('### Pre-checks fail: "NULL count" errors'),
            block("### Migration fails with constraint error"),
        )
    assert "ERROR" not in nulls + constraint
    assert "(0 rows)" in constraint


def test_the_rollback_of_the_guide() -> None:
    """The guide's own pg_restore brings version 7 back into the same database."""
    with world(18) as place:
        place.stop_service()
        rollback = without(block("## Rollback Procedure"), "docker-compose", "echo", "  mail")
        outputs = place.shell(
            block("### 2. Create Backup"),
            block("### 5. Run Migration (5-30 min depending on data size)"),
            rollback,
            "psql -h localhost -U postgres mandate -c '\\d scopes'",
        )
    assert "ERROR" not in outputs[1]
    assert re.search(r"^ domain_id +\| uuid", outputs[3], re.M), outputs[2]
