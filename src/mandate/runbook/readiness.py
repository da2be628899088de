"""Waiting until a service that was started says that it is ready."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mandate.errors import ServiceFailed
from mandate.progress import Reporter
from mandate.runbook import http
from mandate.runbook.services import program
from mandate.runbook.services.adapter import Adapter
from mandate.settings import Settings

_POLL_SECONDS = 0.25
_LOOK_SECONDS = 2.0
_CALL_SECONDS = 5.0


def url(settings: Settings) -> str:
    """What is polled: `services.ready_url`, else /readyz of the smoke tests' base URL."""
    return http.checked(settings.services.ready_url or settings.smoke.base_url.rstrip("/") + "/readyz")


def wait(
    ready_url: str,
    services: Adapter,
    started: Sequence[str],
    timeout_seconds: float,
    reporter: Reporter,
    *,
    expected_seconds: float | None = None,
) -> float:
    """Poll until the answer is 200; the seconds that took.

    Raises ServiceFailed with the last answer and the services' last lines when it does not come in time, or
    as soon as one of `started` no longer runs.
    """
    begun = looked = time.monotonic()
    label = f"waiting for {ready_url}"
    with reporter.task(label, unit="s", expected_seconds=expected_seconds) as task:
        while (last := _ask(ready_url)) is not None:
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS or now - begun >= timeout_seconds:
                looked = now
                _require_alive(services, started, last)
            if now - begun >= timeout_seconds:
                message = f"{ready_url} was not ready within {timeout_seconds:g} s: {last}"
                raise _failed(message, services, started)
            task.update(now - begun, note=last[:60])
            time.sleep(_POLL_SECONDS)
    return time.monotonic() - begun


def _ask(ready_url: str) -> str | None:
    """None when ready, else why not."""
    try:
        answer = http.get(ready_url, _CALL_SECONDS, limit_bytes=1 << 20)
    except http.NoAnswer as error:
        return str(error)
    return None if answer.status == 200 else f"answered {answer.status}: {answer.snippet}"


def _require_alive(services: Adapter, started: Sequence[str], last: str) -> None:
    """A container or a unit may be one that does its work and ends; a process of ours may not end."""
    if services.kind == "command":
        return
    running = services.running()
    gone = [name for name in started if name not in running]
    if gone and (services.kind == "process" or not running):
        raise _failed(f"{', '.join(gone)} ended after the start ({last})", services, gone)


def _failed(message: str, services: Adapter, names: Sequence[str]) -> ServiceFailed:
    return ServiceFailed(
        program.with_log(message, services.log_tail(names)),
        hint="mend the service, then run again: the run goes on from this step",
        services=list(names),
    )
