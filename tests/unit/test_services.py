"""Compose, systemd and plain commands against recorded command lines; what each adapter refuses.

`docker compose version` without its plugin, docker-compose without an engine, and the columns of
`systemctl list-unit-files` are recorded from real programs. Listings of running containers and units, which
need an engine or a booted systemd, are written after their manuals: one service a line, unit name first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.recording import Recording, Reply

from mandate.errors import ServiceFailed, SettingsError
from mandate.progress import Silent
from mandate.runbook.services import adapter
from mandate.settings import ServicesSettings

OK: Reply = (0, "", "")
NO_PLUGIN: Reply = (
    1,
    "",
    "docker: unknown command: docker compose\n\nRun 'docker --help' for more information\n",
)
NO_ENGINE: Reply = (
    1,
    "",
    "Traceback (most recent call last):\n"
    '  File "/usr/bin/docker-compose", line 33, in <module>\n'
    "docker.errors.DockerException: Error while fetching server API version: ('Connection aborted.',"
    " FileNotFoundError(2, 'No such file or directory'))\n",
)
PS = "ps --services --filter status=running"


class Lines(Silent):
    """Keeps what a person would have read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def lines() -> Lines:
    return Lines()


def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *programs: str) -> Recording:
    recording = Recording(tmp_path, programs)
    monkeypatch.setenv("PATH", str(recording.directory))
    return recording


def settings(kind: str, **values: Any) -> ServicesSettings:
    return ServicesSettings.model_validate({"kind": kind, **values})


class TestCompose:
    def test_prefers_the_plugin_and_names_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker", "docker-compose")
        recording.replay(
            {
                "docker compose version": [(0, "Docker Compose version v2.27.1\n", "")],
                f"docker compose -f /srv/dc.yml {PS}": [(0, "worker\nmandate\n", ""), OK],
                "docker compose -f /srv/dc.yml down": [
                    (0, "", " Container srv-mandate-1  Stopping\n Container srv-mandate-1  Removed\n")
                ],
            }
        )
        compose = adapter(settings("compose", compose_file="/srv/dc.yml"))
        assert compose.stop(lines) == ["mandate", "worker"]
        assert recording.calls == [
            "docker compose version",
            f"docker compose -f /srv/dc.yml {PS}",
            "docker compose -f /srv/dc.yml down",
            f"docker compose -f /srv/dc.yml {PS}",
        ]
        assert "$ docker compose -f /srv/dc.yml down" in lines.lines

    def test_falls_back_to_docker_compose_when_docker_has_no_plugin(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker", "docker-compose")
        recording.replay(
            {
                "docker compose version": [NO_PLUGIN],
                "docker-compose up -d": [(0, "", "Creating mandate_mandate_1 ... done\n")],
                f"docker-compose {PS}": [(0, "mandate\n", "")],
            }
        )
        assert adapter(settings("compose")).start(lines) == ["mandate"]
        assert recording.calls == ["docker compose version", "docker-compose up -d", f"docker-compose {PS}"]

    def test_down_runs_even_when_nothing_is_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker-compose")
        recording.replay({f"docker-compose {PS}": [OK], "docker-compose down": [OK]})
        assert adapter(settings("compose")).stop(lines) == []
        assert "docker-compose down" in recording.calls

    def test_a_container_that_survives_down_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker-compose")
        recording.replay({f"docker-compose {PS}": [(0, "mandate\n", "")], "docker-compose down": [OK]})
        with pytest.raises(ServiceFailed, match="still running after `docker-compose down`: mandate"):
            adapter(settings("compose")).stop(lines)

    def test_without_an_engine_the_last_line_is_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker-compose")
        recording.replay({f"docker-compose {PS}": [NO_ENGINE]})
        with pytest.raises(ServiceFailed, match="Error while fetching server API version") as caught:
            adapter(settings("compose")).stop(lines)
        assert caught.value.exit_code == 9
        assert caught.value.fields["returncode"] == 1

    def test_start_that_leaves_nothing_running_shows_the_logs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "docker-compose")
        recording.replay(
            {
                "docker-compose up -d": [OK],
                f"docker-compose {PS}": [OK],
                "docker-compose logs --no-color --tail=10": [(0, "mandate_1 | port 3000 is taken\n", "")],
            }
        )
        with pytest.raises(ServiceFailed, match="port 3000 is taken"):
            adapter(settings("compose")).start(lines)

    def test_neither_program_is_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        record(tmp_path, monkeypatch)
        with pytest.raises(ServiceFailed, match="neither `docker compose` nor `docker-compose`"):
            adapter(settings("compose")).running()


LIST = "systemctl list-units --plain --no-legend --no-pager"
ALIVE = f"{LIST} --state=active,activating,reloading,deactivating mandate-*.service"
FAILED = f"{LIST} --state=failed mandate-*.service"
FILES = "systemctl list-unit-files --plain --no-legend --no-pager mandate-*.service"
TWO_UNITS = (
    "mandate-serve.service    loaded active running Mandate control plane\n"
    "mandate-worker@1.service loaded active running Mandate worker 1\n"
)
UNIT_FILES = (
    "mandate-backup.service  static   -\n"
    "mandate-old.service     masked   enabled\n"
    "mandate-serve.service   enabled  enabled\n"
    "mandate-spare.service   disabled enabled\n"
    "mandate-worker@.service enabled  enabled\n"
)


class TestSystemd:
    def test_stop_expands_the_pattern_and_names_units_in_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl")
        stop = "systemctl --no-ask-password stop mandate-serve.service mandate-worker@1.service"
        warning = (
            "Stopping 'mandate-serve.service', but its triggering units are still active:\nmandate.socket\n"
        )
        recording.replay({ALIVE: [(0, TWO_UNITS, ""), OK], stop: [(0, "", warning)]})
        stopped = adapter(settings("systemd")).stop(lines)
        assert stopped == ["mandate-serve.service", "mandate-worker@1.service"]
        assert recording.calls == [ALIVE, stop, ALIVE]
        assert any("mandate.socket" in line for line in lines.lines)

    def test_stopping_what_is_stopped_is_fine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl")
        recording.replay({ALIVE: [OK]})
        assert adapter(settings("systemd")).stop(lines) == []
        assert recording.calls == [ALIVE]

    def test_start_finds_unloaded_units_and_leaves_others_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl")
        start = "systemctl --no-ask-password start mandate-serve.service mandate-worker@1.service"
        recording.replay(
            {FILES: [(0, UNIT_FILES, "")], start: [OK], FAILED: [OK], ALIVE: [(0, TWO_UNITS, "")]}
        )
        started = adapter(settings("systemd")).start(lines, ["mandate-worker@1.service"])
        assert started == ["mandate-serve.service", "mandate-worker@1.service"]
        assert recording.calls == [FILES, start, FAILED, ALIVE]

    def test_a_unit_that_fails_after_the_start_shows_its_journal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl", "journalctl")
        journal = "journalctl --no-pager --output=short-iso --lines=10 --unit=mandate-serve.service"
        recording.replay(
            {
                FILES: [(0, UNIT_FILES, "")],
                "systemctl --no-ask-password start mandate-serve.service": [OK],
                FAILED: [(0, "mandate-serve.service loaded failed failed Mandate control plane\n", "")],
                journal: [(0, "2026-01-31T02:00:01 host mandate[7]: port 3000 is taken\n", "")],
            }
        )
        with pytest.raises(ServiceFailed, match="port 3000 is taken"):
            adapter(settings("systemd")).start(lines)

    def test_nothing_to_start_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl")
        recording.replay({FILES: [OK]})
        with pytest.raises(ServiceFailed, match="no unit to start"):
            adapter(settings("systemd")).start(lines)

    def test_not_booted_with_systemd(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
    ) -> None:
        recording = record(tmp_path, monkeypatch, "systemctl")
        said = (
            "System has not been booted with systemd as init system (PID 1). Can't operate.\n"
            "Failed to connect to bus: Host is down\n"
        )
        recording.replay({ALIVE: [(1, "", said)]})
        with pytest.raises(ServiceFailed, match="Host is down") as caught:
            adapter(settings("systemd")).stop(lines)
        assert caught.value.hint == "is this machine run by systemd?"


class TestCommand:
    def test_runs_plain_argv_without_a_shell(self, tmp_path: Path, lines: Lines) -> None:
        witness = tmp_path / "a file; touch evil"
        services = adapter(
            settings("command", stop_command=["touch", str(witness)], start_command=["rm", str(witness)])
        )
        assert services.stop(lines) == ["services"]
        assert witness.exists()
        assert services.start(lines) == ["services"]
        assert list(tmp_path.iterdir()) == []

    def test_status_command_decides_whether_there_is_anything_to_do(
        self, tmp_path: Path, lines: Lines
    ) -> None:
        up = tmp_path / "up"
        services = adapter(
            settings(
                "command",
                stop_command=["rm", str(up)],
                start_command=["touch", str(up)],
                status_command=["test", "-e", str(up)],
            )
        )
        assert services.stop(lines) == []
        assert services.start(lines) == ["services"]
        assert services.running() == ["services"]
        assert services.stop(lines) == ["services"]

    def test_stop_command_that_does_not_stop_is_noticed(self, lines: Lines) -> None:
        services = adapter(
            settings("command", stop_command=["true"], start_command=["true"], status_command=["true"])
        )
        with pytest.raises(ServiceFailed, match="still run"):
            services.stop(lines)

    def test_failure_shows_status_and_last_lines_without_passwords(self, lines: Lines) -> None:
        script = "echo connecting to postgresql://u:geheim@h/d >&2; exit 7"
        services = adapter(settings("command", stop_command=["sh", "-c", script], start_command=["true"]))
        with pytest.raises(ServiceFailed, match="exited with 7") as caught:
            services.stop(lines)
        assert "connecting to postgresql://u:***@h/d" in caught.value.message.rpartition("exited with 7")[2]
        assert "geheim" not in f"{caught.value.as_dict()} {lines.lines}"

    def test_hanging_command_is_ended(self, lines: Lines) -> None:
        services = adapter(
            settings(
                "command",
                stop_command=["sh", "-c", "echo waiting for the moon; sleep 600"],
                start_command=["true"],
                stop_timeout_seconds=0.5,
            )
        )
        with pytest.raises(ServiceFailed, match=r"did not finish within 0\.5 s.*waiting for the moon"):
            services.stop(lines)

    def test_a_daemon_left_behind_does_not_hold_the_command_up(self, tmp_path: Path, lines: Lines) -> None:
        pid_file = tmp_path / "pid"
        script = f"sleep 60 & echo $! > '{pid_file}'"
        services = adapter(
            settings(
                "command",
                stop_command=["sh", "-c", f"kill $(cat '{pid_file}')"],
                start_command=["sh", "-c", script],
                ready_timeout_seconds=20,
            )
        )
        assert services.start(lines) == ["services"]
        services.stop(lines)

    def test_missing_program(self, lines: Lines) -> None:
        services = adapter(settings("command", stop_command=["no-such-program"], start_command=["true"]))
        with pytest.raises(ServiceFailed, match="no-such-program cannot be run: No such file"):
            services.stop(lines)

    def test_status_that_cannot_tell_is_an_error(self, lines: Lines) -> None:
        services = adapter(
            settings(
                "command",
                stop_command=["true"],
                start_command=["true"],
                status_command=["sh", "-c", "exit 4"],
            )
        )
        with pytest.raises(ServiceFailed, match="exited with 4"):
            services.stop(lines)


def test_none_does_nothing_and_says_so(lines: Lines) -> None:
    services = adapter(settings("none"))
    assert (services.stop(lines), services.start(lines), services.running()) == ([], [], [])
    assert len(lines.lines) == 2
    assert all("services.kind is none" in line for line in lines.lines)


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        ("process", {}, "services.process"),
        ("systemd", {"units": []}, "services.units"),
        ("command", {"start_command": ["true"]}, "services.stop_command"),
        ("command", {"stop_command": ["true"]}, "services.start_command"),
    ],
)
def test_missing_settings_are_named(kind: str, values: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key) as caught:
        adapter(settings(kind, **values))
    assert caught.value.exit_code == 2
