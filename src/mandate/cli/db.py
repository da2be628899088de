"""mandate db: the embedded server, its databases and their generated history."""

from __future__ import annotations

import typer

app = typer.Typer(help="Embedded PostgreSQL, schema and generated history.", no_args_is_help=True)
