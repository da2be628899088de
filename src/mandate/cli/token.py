"""mandate token: who may use the service."""

from __future__ import annotations

import re
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from mandate.cli import options, output
from mandate.cli.options import Config, DataDir, Dsn, FormatOption
from mandate.cli.output import Format
from mandate.controlplane.access import ledger, tokens
from mandate.controlplane.access.principal import Role
from mandate.errors import UsageError
from mandate.postgres.connection import Row, Session, connect
from mandate.postgres.target import resolve

app = typer.Typer(help="Tokens: who may use the service.", no_args_is_help=True)

_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_MAX_DESCRIPTION = 1000

RoleOption = Annotated[
    Role,
    typer.Option(
        "--role", metavar="ROLE", help="agent, auditor or operator: what it may do (docs/how-to/tokens.md)."
    ),
]
Organization = Annotated[str, typer.Option("--organization", help="Whose it is: a UUID or a name.")]
Domains = Annotated[
    list[str] | None,
    typer.Option("--domain", help="Only this domain (name or old UUID); may be given again. All without."),
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="Valid so long, such as 90d, 12h or 30m; for ever without.")
]
Description = Annotated[str, typer.Option("--description", help="What it is for; shown in the list.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the revocation.")]
TokenId = Annotated[str, typer.Argument(help="The id: what stands between mdt_ and the next _.")]


@app.command()
@options.command
def create(
    role: RoleOption,
    organization: Organization,
    domain: Domains = None,
    expires: Expires = None,
    description: Description = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
    config: Config = None,
    format: FormatOption = Format.TEXT,
) -> int:
    """Make a token and print it, once. Only its hash is kept.

    From the first token on, every request to the service needs one.
    """
    lifetime = _lifetime(expires)
    _printable("--description", description)
    _printable("--organization", organization)
    for name in domain or ():
        _printable("--domain", name)
    if len(domain or ()) > ledger.MOST_DOMAINS:
        raise UsageError(f"a token can have {ledger.MOST_DOMAINS} domains", hint="leave --domain out for all")
    with _session(dsn, data_dir, config) as session:
        first = not ledger.exist(session)
        made = ledger.create(session, role, organization, domain, lifetime=lifetime, description=description)
    output.emit(format, "token-create", {**vars(made), "first": first}, lambda: _created(made, first=first))
    return 0


@app.command("list")
@options.command
def list_tokens(
    dsn: Dsn = None,
    data_dir: DataDir = None,
    config: Config = None,
    format: FormatOption = Format.TEXT,
) -> int:
    """Every token that was ever made, newest first, and what became of it."""
    with _session(dsn, data_dir, config) as session:
        rows = ledger.listed(session)
    output.emit(format, "token-list", {"tokens": rows}, lambda: _lines(rows))
    return 0


@app.command()
@options.command
def revoke(
    token_id: TokenId,
    reason: Reason = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
    config: Config = None,
    format: FormatOption = Format.TEXT,
) -> int:
    """End a token. Within a second no service takes it any more. Revoked already is fine."""
    if not tokens.ID_PATTERN.fullmatch(token_id):
        raise UsageError(
            "that is not the id of a token", hint="give its id, 12 hexadecimal digits, not the token itself"
        )
    _printable("--reason", reason)
    with _session(dsn, data_dir, config) as session:
        now = ledger.revoke(session, token_id, reason)
    words = "is revoked" if now else "was revoked before"
    output.emit(
        format,
        "token-revoke",
        {"token_id": token_id, "revoked_now": now},
        lambda: f"Token {token_id} {words}.",
    )
    return 0


def _session(dsn: str | None, data_dir: Any, config: Any) -> Session:
    target = resolve(options.load(config, {"database.dsn": dsn, "embedded.data_dir": data_dir}))
    return connect(target, application_name="mandate-token")


def _lifetime(given: str | None) -> timedelta | None:
    if given is None:
        return None
    found = _LIFETIME.fullmatch(given)
    if found is None:
        raise UsageError(f"--expires {given!r} is not a time span", hint="such as 90d, 12h or 30m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _printable(option: str, value: str) -> None:
    if len(value) > _MAX_DESCRIPTION or "\0" in value or not _encodable(value):
        raise UsageError(f"{option}: at most {_MAX_DESCRIPTION} characters of text")


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _created(made: ledger.Created, *, first: bool) -> str:
    lines = [
        made.token,
        "",
        f"  id            {made.token_id}",
        f"  role          {made.role.value}",
        f"  organization  {made.organization}",
        f"                {made.organization_id}",
        f"  domains       {', '.join(made.domains) if made.domains else 'all'}",
        f"  expires       {_time(made.expires_at) if made.expires_at else 'never'}",
        "",
        "This is the only time that the token is shown.",
    ]
    if first:
        lines.append("It is the first: from now on every request to the service needs a token.")
    return "\n".join(lines)


def _lines(rows: list[Row]) -> str:
    return "\n".join(["id            role      state", *map(_line, rows)]) if rows else "No tokens."


def _line(row: Row) -> str:
    whose = row["organization"] or row["organization_id"]
    domains = ", ".join(row["domains"]) if row["domains"] else "all domains"
    lines = [f"{row['token_id']}  {row['role']:<8}  {_state(row)}", *_wrapped(f"{whose}: {domains}")]
    return "\n".join(lines + (_wrapped(row["description"]) if row["description"] else []))


def _state(row: Row) -> str:
    if row["status"] == "revoked":
        reason = f": {_plain(row['reason'])}" if row["reason"] else ""
        return f"revoked {_time(row['revoked_at'])}{reason}"
    if row["expires_at"] is None:
        return str(row["status"])
    return f"{'expired' if row['status'] == 'expired' else 'valid until'} {_time(row['expires_at'])}"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _wrapped(text: str) -> list[str]:
    indent = " " * 14
    return textwrap.wrap(_plain(text), 80, initial_indent=indent, subsequent_indent=indent)


def _plain(text: str) -> str:
    """On one line, and nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def register(parent: typer.Typer) -> None:
    """Add the group of commands of this module."""
    parent.add_typer(app, name="token")
