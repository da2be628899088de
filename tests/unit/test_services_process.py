"""Services as real processes: started, stopped, killed behind our back, pids reused, signals ignored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from mandate.errors import ServiceFailed
from mandate.progress import Silent
from mandate.runbook.services import adapter
from mandate.runbook.services.adapter import Adapter
from mandate.settings import ServicesSettings

SLEEPER = "import time\nprint('serving', flush=True)\ntime.sleep(300)"
DEAF = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True)\ntime.sleep(300)"
)
ASKS_NICELY = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("child", child.pid, flush=True)
time.sleep(300)
"""
DAEMON = """
import os, pathlib, sys, time
read, write = os.pipe()
if os.fork():
    os.close(write)
    os.read(read, 1)
    os._exit(0)
os.setsid()
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
os.close(write)
os.close(read)
time.sleep(300)
"""


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def lines() -> Lines:
    return Lines()


Make = Callable[..., Adapter]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An adapter for one service that runs `script`; whatever is left of it is killed afterwards."""
    made: list[Adapter] = []

    def build(script: str, *arguments: str, **values: Any) -> Adapter:
        one = {
            "name": "mandate-serve",
            "command": [sys.executable, "-c", script, *arguments],
            "pid_file": str(tmp_path / "run" / "serve.pid"),
            "log_file": str(tmp_path / "serve.log"),
            **values.pop("process", {}),
        }
        settings = {"kind": "process", "process": [one], "stop_timeout_seconds": 20, **values}
        made.append(adapter(ServicesSettings.model_validate(settings)))
        return made[-1]

    yield build
    for one in made:
        one.stop(Silent())


def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "serve.pid"


def read_pid(tmp_path: Path) -> int:
    return int(pid_file(tmp_path).read_text())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def test_start_and_stop_for_real(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(SLEEPER)
    assert service.running() == []
    assert service.start(lines) == ["mandate-serve"]
    process = psutil.Process(read_pid(tmp_path))
    assert service.running() == ["mandate-serve"]
    assert os.getsid(process.pid) == process.pid, "must not share this terminal's session"
    until(lambda: "serving" in service.log_tail())
    assert service.stop(lines) == ["mandate-serve"]
    assert not psutil.pid_exists(process.pid) or process.status() == psutil.STATUS_ZOMBIE
    assert list(pid_file(tmp_path).parent.iterdir()) == []
    assert "SIGKILL" not in lines.text


def test_both_can_be_repeated(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(SLEEPER)
    assert service.stop(lines) == []
    service.start(lines)
    first = read_pid(tmp_path)
    assert service.start(lines) == ["mandate-serve"]
    assert read_pid(tmp_path) == first, "a running service is not started again"
    assert service.stop(lines) == ["mandate-serve"]
    assert service.stop(lines) == []


def test_another_process_can_stop_what_this_one_started(tmp_path: Path, make: Make, lines: Lines) -> None:
    make(SLEEPER).start(lines)
    pid = read_pid(tmp_path)
    assert make(SLEEPER).stop(lines) == ["mandate-serve"]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_guides_kill_works_and_is_noticed(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(SLEEPER)
    service.start(lines)
    pid = read_pid(tmp_path)
    subprocess.run(["kill", str(pid)], check=True)
    until(lambda: service.running() == [])
    assert service.stop(lines) == []
    assert service.start(lines) == ["mandate-serve"]
    assert read_pid(tmp_path) != pid


def test_kill_9_leaves_nothing_that_confuses(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(SLEEPER)
    service.start(lines)
    os.kill(read_pid(tmp_path), signal.SIGKILL)
    until(lambda: service.running() == [])
    assert pid_file(tmp_path).exists(), "a killed service does not tidy up"
    assert service.stop(lines) == []
    assert not pid_file(tmp_path).exists()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, which must survive everything."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as process:
        yield process
        assert process.poll() is None, "a process that is not ours was signalled"
        process.kill()


def test_a_reused_pid_is_never_signalled(
    tmp_path: Path, make: Make, lines: Lines, stranger: subprocess.Popen[bytes]
) -> None:
    service = make(SLEEPER)
    service.start(lines)
    identity = pid_file(tmp_path).with_name("serve.pid.json")
    record = json.loads(identity.read_text())
    service.stop(lines)
    pid_file(tmp_path).write_text(str(stranger.pid))
    identity.write_text(json.dumps({**record, "pid": stranger.pid, "created": record["created"] - 3600}))
    assert service.running() == []
    assert service.stop(lines) == []
    assert "not ours: left alone" in lines.text


def test_a_pid_file_alone_counts_only_for_the_configured_command(
    tmp_path: Path, make: Make, lines: Lines, stranger: subprocess.Popen[bytes]
) -> None:
    service = make(SLEEPER)
    pid_file(tmp_path).parent.mkdir()
    pid_file(tmp_path).write_text(str(stranger.pid))
    assert service.stop(lines) == []
    assert f"names process {stranger.pid}" in lines.text
    assert service.start(lines) == ["mandate-serve"]
    assert read_pid(tmp_path) != stranger.pid


def test_a_service_started_by_hand_is_recognised_by_its_command(
    tmp_path: Path, make: Make, lines: Lines
) -> None:
    service = make(SLEEPER)
    pid_file(tmp_path).parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL) as process:
        pid_file(tmp_path).write_text(str(process.pid))
        assert service.running() == ["mandate-serve"]
        assert service.stop(lines) == ["mandate-serve"]
    assert service.running() == []
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "1", "99999999999999999999", "12\n13", "\x00" * 100])
def test_nonsense_in_the_pid_file(tmp_path: Path, make: Make, lines: Lines, text: str) -> None:
    pid_file(tmp_path).parent.mkdir()
    pid_file(tmp_path).write_text(text)
    pid_file(tmp_path).with_name("serve.pid.json").write_text(text)
    service = make(SLEEPER)
    assert service.running() == []
    assert service.stop(lines) == []


def test_a_service_that_ignores_sigterm_is_killed_and_that_is_said(
    tmp_path: Path, make: Make, lines: Lines
) -> None:
    service = make(DEAF, stop_timeout_seconds=0.5)
    service.start(lines)
    until(lambda: "deaf" in service.log_tail())
    pid = read_pid(tmp_path)
    assert service.stop(lines) == ["mandate-serve"]
    assert f"SIGTERM ignored for 0.5 s, so SIGKILL to process {pid}" in lines.text
    assert service.running() == []


def test_children_do_not_outlive_the_service(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(ASKS_NICELY)
    service.start(lines)
    until(lambda: "child" in service.log_tail())
    child = psutil.Process(int(service.log_tail().split()[1]))
    assert service.stop(lines) == ["mandate-serve"]
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert "SIGKILL" not in lines.text


def test_a_program_that_goes_into_the_background_by_itself(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make(DAEMON, str(pid_file(tmp_path)))
    pid_file(tmp_path).parent.mkdir()
    assert service.start(lines) == ["mandate-serve"]
    daemon = psutil.Process(read_pid(tmp_path))
    assert daemon.is_running()
    assert service.stop(lines) == ["mandate-serve"]
    assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE


def test_a_start_that_dies_at_once_shows_the_log(tmp_path: Path, make: Make, lines: Lines) -> None:
    service = make("import sys; print('port 3000 is taken by somebody'); sys.exit(3)")
    with pytest.raises(ServiceFailed, match=r"exited with 3 at once\n  \| port 3000 is taken") as caught:
        service.start(lines)
    assert caught.value.exit_code == 9
    assert list(pid_file(tmp_path).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ({"command": ["no-such-program"]}, "no-such-program: No such file"),
        ({"directory": "no-such-directory"}, "no-such-directory: No such file"),
        ({"log_file": "/proc/nowhere/serve.log"}, "/proc/nowhere"),
        ({"pid_file": "/proc/nowhere/serve.pid"}, "/proc/nowhere"),
    ],
)
def test_settings_that_cannot_work(
    make: Make, lines: Lines, process: dict[str, Sequence[str]], said: str
) -> None:
    service = make(SLEEPER, process=process)
    with pytest.raises(ServiceFailed, match=said):
        service.start(lines)
    assert service.running() == []


def test_environment_directory_and_default_log_file(tmp_path: Path, make: Make, lines: Lines) -> None:
    script = "import os; print(os.environ['GREETING'], os.getcwd(), flush=True); import time; time.sleep(300)"
    process = {"environment": {"GREETING": "hello"}, "directory": str(tmp_path), "log_file": None}
    service = make(script, process=process)
    service.start(lines)
    until(lambda: service.log_tail() == f"hello {tmp_path}")
    assert (tmp_path / "run" / "serve.log").exists()


def test_a_failed_start_leaves_no_process_behind(tmp_path: Path, make: Make, lines: Lines) -> None:
    """The pid file cannot be written: without it nobody could stop the service again."""
    (tmp_path / "run").write_text("a file where a directory should be")
    marker = f"marker-{os.getpid()}"
    service = make(SLEEPER, marker, process={"log_file": str(tmp_path / "serve.log")})
    with pytest.raises(ServiceFailed):
        service.start(lines)
    assert not [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])[3:]]
