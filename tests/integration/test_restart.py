"""Step restart: services are started and waited for; what goes wrong is shown with their last words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.commands import MANDATE
from tests.recording import Recording
from tests.servers import DatabaseFactory
from tests.stepping import FakeService, context, fake_service

from mandate.errors import ServiceFailed, SettingsError, UsageError
from mandate.postgres.connection import Target
from mandate.postgres.embedded_host import free_port
from mandate.progress import Silent
from mandate.runbook import services
from mandate.runbook.steps.s10_stop import STEP as STOP
from mandate.runbook.steps.s80_restart import STEP
from mandate.settings import ServicesSettings

ANYWHERE = Target({"host": "nowhere.invalid"})

# Ready only when a file is there: argv is port, file.
SLOW_SERVICE = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = pathlib.Path(sys.argv[2]).exists()
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"" if ready else b"no database yet")
        if self.path == "/readyz":
            pathlib.Path(sys.argv[2]).touch()
    def log_message(self, *args):
        pass
print("listening on", sys.argv[1], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def cleaned() -> Iterator[list[dict[str, Any]]]:
    """Settings of services that are stopped after the test."""
    used: list[dict[str, Any]] = []
    yield used
    for one in used:
        services.adapter(ServicesSettings.model_validate(one)).stop(Silent())


def process(directory: Path, *command: str, **values: Any) -> dict[str, Any]:
    one = {"name": "mandate-serve", "command": command, "pid_file": str(directory / "serve.pid")}
    return {"kind": "process", "process": [one], "ready_timeout_seconds": 30, **values}


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with fake_service() as service:
        yield service


def test_the_real_service_stops_starts_and_is_ready(
    database: DatabaseFactory, tmp_path: Path, cleaned: list[dict[str, Any]]
) -> None:
    target, port = database("v7"), free_port()
    arguments = ["serve", "--port", str(port), "--dsn", target.conninfo, "--log-dir", str(tmp_path)]
    settings = {
        "services": process(tmp_path, str(MANDATE), *arguments, "--pid-file", f"{tmp_path}/serve.pid"),
        "smoke": {"base_url": f"http://localhost:{port}", "log_globs": [f"{tmp_path}/mandate-serve.log"]},
    }
    cleaned.append(settings["services"])
    first = STEP.run(context(target, tmp_path, settings))
    assert first.evidence["services"] == {"kind": "process", "started": ["mandate-serve"]}
    assert first.evidence["ready_url"] == f"http://localhost:{port}/readyz"
    assert first.evidence["ready_seconds"] > 0
    pid = int((tmp_path / "serve.pid").read_text())
    stopped = STOP.run(context(target, tmp_path, settings))
    assert stopped.evidence["services"]["stopped"] == ["mandate-serve"]
    assert stopped.evidence["log_offsets"][f"{tmp_path}/mandate-serve.log"]["size"] > 0
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    again = STEP.run(context(target, tmp_path, settings, {"stop": stopped.evidence}))
    assert again.evidence["services"]["started"] == ["mandate-serve"]
    assert int((tmp_path / "serve.pid").read_text()) != pid


def test_not_ready_at_first_is_waited_for(tmp_path: Path, cleaned: list[dict[str, Any]]) -> None:
    port = free_port()
    command = (sys.executable, "-c", SLOW_SERVICE, str(port), str(tmp_path / "ready"))
    settings = {"services": process(tmp_path, *command, ready_url=f"http://127.0.0.1:{port}/readyz")}
    cleaned.append(settings["services"])
    outcome = STEP.run(context(ANYWHERE, tmp_path, settings))
    assert outcome.evidence["ready_seconds"] >= 0.25, "the first answer was 503"
    assert STEP.run(context(ANYWHERE, tmp_path, settings)).evidence["ready_url"].endswith("/readyz")


def test_never_ready_shows_the_last_answer_and_the_log(tmp_path: Path, cleaned: list[dict[str, Any]]) -> None:
    port = free_port()
    command = (sys.executable, "-c", SLOW_SERVICE, str(port), str(tmp_path / "ready"))
    url = f"http://127.0.0.1:{port}/never"
    settings = {"services": process(tmp_path, *command, ready_url=url, ready_timeout_seconds=2)}
    cleaned.append(settings["services"])
    with pytest.raises(ServiceFailed) as caught:
        STEP.run(context(ANYWHERE, tmp_path, settings))
    assert "was not ready within 2 s: answered 503: no database yet" in caught.value.message
    assert f"| listening on {port}" in caught.value.message
    assert caught.value.exit_code == 9


def test_a_service_that_dies_while_it_is_waited_for_is_noticed_early(
    tmp_path: Path, cleaned: list[dict[str, Any]]
) -> None:
    script = "import time; print('cannot read my licence', flush=True); time.sleep(1); raise SystemExit(4)"
    settings = {
        "services": process(
            tmp_path, sys.executable, "-c", script, ready_url="http://127.0.0.1:1/", ready_timeout_seconds=600
        )
    }
    cleaned.append(settings["services"])
    with pytest.raises(
        ServiceFailed, match=r"mandate-serve ended after the start \(connection refused"
    ) as caught:
        STEP.run(context(ANYWHERE, tmp_path, settings))
    assert "| cannot read my licence" in caught.value.message


def test_kind_none_is_skipped_and_says_so(tmp_path: Path) -> None:
    outcome = STEP.run(context(ANYWHERE, tmp_path))
    assert outcome.skipped
    assert "somebody else starts the services" in outcome.summary
    assert outcome.evidence["services"]["started"] == []


def test_units_that_were_stopped_are_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeService
) -> None:
    """An instance of a template is known from the evidence of the stop only."""
    recording = Recording(tmp_path, ["systemctl"])
    monkeypatch.setenv("PATH", str(recording.directory))
    units = "systemctl list-units --plain --no-legend --no-pager"
    start = "systemctl --no-ask-password start mandate-worker@1.service"
    recording.replay(
        {
            "systemctl list-unit-files --plain --no-legend --no-pager mandate-*.service": [(0, "", "")],
            start: [(0, "", "")],
            f"{units} --state=failed mandate-*.service": [(0, "", "")],
            f"{units} --state=active,activating,reloading,deactivating mandate-*.service": [
                (0, "mandate-worker@1.service loaded active running Worker\n", "")
            ],
        }
    )
    fake.answers["/readyz"] = (200, {"status": "ready"})
    settings = {"services": {"kind": "systemd"}, "smoke": {"base_url": fake.url}}
    stopped = {"services": {"kind": "systemd", "stopped": ["mandate-worker@1.service"]}}
    outcome = STEP.run(context(ANYWHERE, tmp_path, settings, {"stop": stopped}))
    assert outcome.evidence["services"]["started"] == ["mandate-worker@1.service"]
    assert start in recording.calls


def test_a_command_without_status_is_waited_for_all_the_same(tmp_path: Path, fake: FakeService) -> None:
    fake.answers["/readyz"] = (200, {})
    command = {"kind": "command", "stop_command": ["true"], "start_command": ["true"]}
    settings = {"services": command, "smoke": {"base_url": fake.url}}
    assert STEP.run(context(ANYWHERE, tmp_path, settings)).evidence["services"]["started"] == ["services"]
    assert fake.asked == ["/readyz"]


def test_settings_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    witness = tmp_path / "started"
    command = {"kind": "command", "stop_command": ["true"], "start_command": ["touch", str(witness)]}
    with pytest.raises(UsageError, match="is not an http or https URL"):
        STEP.run(context(ANYWHERE, tmp_path, {"services": {**command, "ready_url": "ftp://x/"}}))
    with pytest.raises(SettingsError, match=r"services\.process"):
        STEP.run(context(ANYWHERE, tmp_path, {"services": {"kind": "process"}}))
    assert not witness.exists()
