"""The flags that many commands share, and the frame that every command runs in."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable, Mapping
from inspect import cleandoc
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from mandate import settings
from mandate.cli import output
from mandate.cli.output import Format
from mandate.errors import MandateError, Terminated

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn", help="PostgreSQL connection string; else PG*, DATABASE_URL, mandate.toml, embedded."
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file; ./mandate.toml is the default.")
]
Accept = Annotated[
    list[str] | None, typer.Option("--accept", help="The text of a problem that you have looked at.")
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Cluster directory of the embedded PostgreSQL.")
]


def load(config: Path | None, flags: Mapping[str, Any] | None = None) -> settings.Loaded:
    """Settings for a command: its flags (dotted keys; None = not given) over everything else."""
    return settings.load(flags, file=config)


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


P = ParamSpec("P")
_NOWHERE = logging.NullHandler()


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Wrap a command: our errors become messages and exit codes, signals 130 and 143.

    The command's parameters must include `format`; any other than json is for people.
    """

    @functools.wraps(function)
    def framed(*args: P.args, **kwargs: P.kwargs) -> None:
        format = Format.JSON if str(kwargs.get("format")) == Format.JSON else Format.TEXT
        signal.signal(signal.SIGTERM, _on_sigterm)
        # What the driver says of a connection that is dropped is for a log, where there is one.
        logging.getLogger("psycopg").addHandler(_NOWHERE)
        try:
            code = function(*args, **kwargs)
        except MandateError as error:
            output.fail(error, format)
        except (KeyboardInterrupt, Terminated) as stop:
            output.stderr.print("interrupted: nothing more was started", markup=False)
            raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else 143) from None
        except BrokenPipeError:
            raise SystemExit(141) from None
        raise SystemExit(code or 0)

    framed.__doc__ = _paragraphs(function.__doc__)
    return framed


def _paragraphs(text: str | None) -> str | None:
    """A docstring with one line for each paragraph: --help breaks the lines."""
    return text and "\n\n".join(" ".join(part.split()) for part in cleandoc(text).split("\n\n"))
