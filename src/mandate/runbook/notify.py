"""Telling people: mail, chat, webhooks, whatever apprise knows a URL for.

A notification that fails never stops a run, and never passes unseen: it comes back as a result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from mandate.postgres.connection import redact
from mandate.settings import NotifySettings

_APPRISE_LOG = "apprise"
_REASON_LENGTH = 160
_MIN_SECRET = 3


@dataclass(frozen=True)
class Delivery:
    """What became of one notification. `url` is redacted; `reason` says why it was not sent."""

    url: str
    sent: bool
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.url}: sent" if self.sent else f"{self.url}: NOT sent: {self.reason}"


def send(settings: NotifySettings, title: str, body: str) -> list[str]:
    """Notify every `notify.urls`; one line per URL, redacted. Never raises."""
    return [str(delivery) for delivery in deliver(settings, title, body)]


def deliver(settings: NotifySettings, title: str, body: str) -> list[Delivery]:
    """Like `send`, as data. One URL that fails does not keep the others from being tried."""
    return [_deliver(url, number, title, body) for number, url in enumerate(settings.urls, start=1)]


def _deliver(secret: SecretStr, number: int, title: str, body: str) -> Delivery:
    # A third of a second to import, and most commands never notify anybody.
    import apprise

    url = secret.get_secret_value()
    with _log_lines() as lines:
        service = apprise.Apprise.instantiate(url)
        if service is None:
            reason = _why(lines, url) or "not a notification URL that apprise knows"
            return Delivery(f"notify.urls[{number}]", False, reason)
        # Through a sender, which turns whatever a plugin raises into a log line.
        sender = apprise.Apprise()
        sender.add(service)
        sent = bool(sender.notify(body=body or title, title=title))
        shown = _shown(service)
    return Delivery(shown, sent, "" if sent else _why(lines, url) or "apprise gave no reason")


def _shown(service: Any) -> str:
    """Scheme, host and port. apprise blanks passwords and tokens, but not the path of a plain webhook."""
    parts = urlsplit(str(service.url(privacy=True)))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _why(lines: list[str], url: str) -> str:
    return _clean(lines[-1], url) if lines else ""


def _clean(text: str, url: str) -> str:
    """One line, without any part of the URL that may be a secret."""
    parts = urlsplit(url)
    pieces = [
        url,
        parts.username,
        parts.password,
        parts.query,
        *parts.path.split("/"),
        *parts.path.split(":"),
    ]
    secrets = {form for piece in pieces if piece for form in (piece, unquote(piece))}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "***")
    return " ".join(redact(text).split())[:_REASON_LENGTH]


@contextmanager
def _log_lines() -> Iterator[list[str]]:
    """What apprise logs is the only place where it says why; kept off the terminal."""
    lines: list[str] = []
    handler = _Keep(lines)
    logger = logging.getLogger(_APPRISE_LOG)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _Keep(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
