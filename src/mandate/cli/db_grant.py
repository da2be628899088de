"""mandate db grant: the roles that services, auditors and migrations use in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from mandate.cli import options, output
from mandate.cli.options import Config, DataDir, Dsn, FormatOption
from mandate.cli.output import Format
from mandate.postgres.connection import connect
from mandate.postgres.target import resolve

RowSecurity = Annotated[
    bool | None,
    typer.Option(
        "--row-security/--no-row-security",
        help="Row level security on or off (from version 8). Left as it is when neither is given.",
    ),
]


@options.command
def command(
    row_security: RowSecurity = None,
    dsn: Dsn = None,
    data_dir: DataDir = None,
    config: Config = None,
    format: FormatOption = Format.TEXT,
) -> int:
    """Make mandate_runtime, mandate_auditor and mandate_migrator and give them their rights. Again is fine.

    They are for logins to be members of: CREATE ROLE mandate LOGIN PASSWORD '...' IN ROLE mandate_runtime.
    """
    from mandate.controlplane.access import grants

    target = resolve(options.load(config, {"database.dsn": dsn, "embedded.data_dir": data_dir}))
    with connect(target, application_name="mandate-grant", settings={"lock_timeout": "15s"}) as session:
        found = grants.grant(session, row_security=row_security)
    output.emit(format, "db-grant", vars(found), lambda: _text(found))
    return 0


def _text(found: object) -> str:
    values = vars(found)
    migrator = (
        f"changes tables, as a member of {values['owner']}"
        if values["migrator"]
        else f"has no rights yet: the owner {values['owner']} is a superuser, whose rights are not passed on"
    )
    return "\n".join(
        (
            "mandate_runtime   reads and appends",
            "mandate_auditor   reads",
            f"mandate_migrator  {migrator}",
            f"row level security is {'on' if values['row_security'] else 'off'}",
        )
    )
