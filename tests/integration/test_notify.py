"""Notifications against a real HTTP receiver and a real SMTP server on this machine."""

from __future__ import annotations

import email
import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mandate.postgres.embedded_host import free_port
from mandate.runbook import notify
from mandate.settings import NotifySettings

TITLE = "URGENT: Migration 008 rolled back"
BODY = "Run 20260131-020000-beef: investigation required, näheres im Bericht."


@contextmanager
def listening(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Received:
    """What a receiver got."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.mails: list[tuple[str, list[str], Message]] = []
        self.status = 200


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def webhook(received: Received) -> Iterator[str]:
    """host:port of an HTTP receiver."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.documents.append(json.loads(body))
            self.send_response(received.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with listening(server):
        yield f"127.0.0.1:{server.server_port}"


@pytest.fixture
def mailbox(received: Received) -> Iterator[str]:
    """host:port of an SMTP server that takes everything."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            sender, recipients = "", []
            self.reply("220 mail.test ready")
            while line := self.rfile.readline().decode().strip():
                verb = line.split(":")[0].upper()
                if verb == "MAIL FROM":
                    sender = line.split(":", 1)[1]
                elif verb == "RCPT TO":
                    recipients.append(line.split(":", 1)[1])
                elif verb == "DATA":
                    self.reply("354 go ahead")
                    received.mails.append((sender, recipients, email.message_from_bytes(self.data())))
                elif verb == "QUIT":
                    self.reply("221 bye")
                    return
                self.reply("250 ok")

        def data(self) -> bytes:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line)
            return b"".join(lines)

        def reply(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with listening(server):
        yield f"127.0.0.1:{server.server_address[1]}"


def settings(*urls: str) -> NotifySettings:
    return NotifySettings.model_validate({"urls": list(urls)})


def test_a_webhook_receives_title_and_body(webhook: str, received: Received) -> None:
    results = notify.send(settings(f"json://operator:geheim@{webhook}/hooks/T0K3N"), TITLE, BODY)
    (document,) = received.documents
    assert (document["title"], document["message"]) == (TITLE, BODY)
    assert results == [f"json://{webhook}: sent"]


def test_mail_arrives(mailbox: str, received: Received) -> None:
    url = f"mailto://{mailbox}/?from=mandate@example.org&to=team@example.org&mode=insecure"
    assert notify.deliver(settings(url), TITLE, BODY)[0].sent
    ((sender, recipients, message),) = received.mails
    assert "mandate@example.org" in sender
    assert ["team@example.org" in one for one in recipients] == [True]
    subject = email.header.make_header(email.header.decode_header(message["Subject"]))
    assert str(subject) == TITLE
    parts = [part for part in message.walk() if not part.is_multipart()]
    bodies = [part.get_payload(decode=True) for part in parts]
    assert any("näheres im Bericht" in body.decode() for body in bodies if isinstance(body, bytes))


def test_one_failure_is_reported_and_the_others_are_sent(webhook: str, received: Received) -> None:
    dead = f"json://operator:geheim@127.0.0.1:{free_port()}/hooks/T0K3N"
    results = notify.deliver(settings(dead, f"json://{webhook}", "nonsense://x"), TITLE, BODY)
    assert [one.sent for one in results] == [False, True, False]
    assert len(received.documents) == 1
    assert "NOT sent" in str(results[0])
    assert results[0].reason
    assert "notify.urls[3]" in str(results[2])
    shown = " ".join(map(str, results))
    assert "geheim" not in shown
    assert "T0K3N" not in shown


def test_a_receiver_that_refuses(webhook: str, received: Received) -> None:
    received.status = 500
    (result,) = notify.deliver(settings(f"json://{webhook}"), TITLE, BODY)
    assert not result.sent
    assert "500" in result.reason


@pytest.mark.parametrize("url", ["", "://", "json://", "mailto://", "slack://bad", "\x00", "x" * 100_000])
def test_nonsense_never_raises(url: str) -> None:
    (result,) = notify.deliver(settings(url), TITLE, BODY)
    assert not result.sent
    assert len(str(result)) < 500


def test_empty_title_and_body_never_raise(webhook: str) -> None:
    assert len(notify.send(settings(f"json://{webhook}"), "", "")) == 1


def test_nobody_to_tell() -> None:
    assert notify.send(settings(), TITLE, BODY) == []


def test_what_apprise_logs_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    notify.send(settings("nonsense://x"), TITLE, BODY)
    assert capfd.readouterr().err == ""
    assert logging.getLogger("apprise").propagate


def test_a_token_in_the_place_of_the_host_is_not_shown() -> None:
    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert not set(url.split("/")[2:]) & set(str(notify._shown(_service(url))).split("/"))


def _service(url: str) -> object:
    import apprise

    service = apprise.Apprise.instantiate(url)
    assert service is not None
    return service
