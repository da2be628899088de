"""The service's log: JSON, one line an event, in a file that an operator can grep.

A line of a healthy run has none of the words error, exception and fail in it, not even as a key: that is what
the execution guide greps for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import structlog
from platformdirs import user_log_path
from structlog.types import EventDict, Processor, WrappedLogger

from mandate.errors import SettingsError

REQUEST_LOGGER = "mandate.request"
FILE_NAME = "mandate-serve.log"
SYSTEM_DIRECTORY = Path("/var/log/mandate")


def _plain_logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """uvicorn's own logger is called `uvicorn.error` whatever it has to say."""
    if str(event.get("logger", "")).startswith("uvicorn"):
        event["logger"] = "uvicorn"
    return event


def _without_color(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)
    return event


def _in_reading_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event") if key in event}
    return {**first, **event}


_SHARED: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
    _plain_logger_name,
    _without_color,
]


class _File(WatchedFileHandler):
    """The log, with a short way for lines of which there are thousands a second: written once a turn of the
    event loop, all together."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._lines: list[str] = []

    def put(self, line: str) -> None:
        """Write a line before the next turn of the running event loop."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write_lines)
        self._lines.append(line)

    def emit(self, record: logging.LogRecord) -> None:
        self._write_lines()
        super().emit(record)

    def close(self) -> None:
        self._write_lines()
        super().close()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        with self.lock or nullcontext():
            try:
                self.reopenIfNeeded()
                self.stream = self.stream or self._open()
                self.stream.write("".join(lines))
                self.flush()
            except OSError:
                # As logging does with a disk that is full: said on standard error, and life goes on.
                self.handleError(logging.makeLogRecord({"msg": "lines of requests", "levelno": logging.INFO}))


_request_log: _File | None = None
_encode = json.JSONEncoder(ensure_ascii=False).encode


def request(fields: Mapping[str, object]) -> None:
    """The line of a request that went well or that its caller has to mend: at level info."""
    write("request", fields)


def write(event: str, fields: Mapping[str, object]) -> None:
    """A line about a request, at level info, by the short way."""
    if _request_log is None:
        structlog.get_logger(REQUEST_LOGGER).info(event, **fields)
        return
    timestamp = datetime.now(UTC).isoformat()[:-6]
    said = ", ".join([f'"{name}": {_encode(value)}' for name, value in fields.items()])
    _request_log.put(
        f'{{"timestamp": "{timestamp}Z", "level": "info", "logger": "{REQUEST_LOGGER}", '
        f'"event": "{event}", {said}}}\n'
    )


def open_log(directory: Path | None) -> Path:
    """Send every log line of this process to a file and return its path.

    Without a `directory`: /var/log/mandate when this user may write there, else the user's own log directory.
    The file is opened again when logrotate moves it away. Raises SettingsError when no file can be written.
    """
    path = _choose(directory)
    global _request_log
    _request_log = handler = _File(path)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _in_reading_order,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("psycopg").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return path


def _choose(directory: Path | None) -> Path:
    candidates = [SYSTEM_DIRECTORY, user_log_path("mandate")] if directory is None else [directory]
    reasons = []
    for candidate in candidates:
        try:
            return _writable(candidate.expanduser().absolute())
        except OSError as error:
            reasons.append(f"{candidate}: {error.strerror or error}")
    raise SettingsError(
        f"no log can be written ({'; '.join(reasons)})", hint="choose another directory with --log-dir"
    )


def _writable(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE_NAME
    with path.open("a", encoding="utf-8"):
        os.utime(path)
    return path
