"""Which database is meant: flag, environment, mandate.toml, libpq's own variables, embedded server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mandate.errors import NoDatabase
from mandate.postgres import embedded
from mandate.postgres.connection import Target
from mandate.settings import Loaded

_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE")


def resolve(loaded: Loaded, environment: Mapping[str, str] | None = None) -> Target:
    """The target in force.

    Order: --dsn, MANDATE_DATABASE__DSN, libpq's PG* or PGSERVICE, DATABASE_URL, mandate.toml, the
    running embedded server. Raises NoDatabase when none applies.
    """
    env = os.environ if environment is None else environment
    dsn = loaded.settings.database.dsn
    origin = loaded.origin("database.dsn")
    if dsn is not None and origin in ("flag", "environment"):
        name = "--dsn" if origin == "flag" else "MANDATE_DATABASE__DSN"
        return Target.from_dsn(dsn.get_secret_value(), name)
    if any(env.get(name) for name in _LIBPQ_VARIABLES):
        return _from_libpq(env)
    if url := env.get("DATABASE_URL"):
        return Target.from_dsn(url, "DATABASE_URL")
    if dsn is not None:
        return Target.from_dsn(dsn.get_secret_value(), "mandate.toml")
    return _from_embedded(loaded)


def _from_libpq(env: Mapping[str, str]) -> Target:
    names = {
        "PGHOST": "host",
        "PGHOSTADDR": "hostaddr",
        "PGPORT": "port",
        "PGUSER": "user",
        "PGPASSWORD": "password",
        "PGPASSFILE": "passfile",
        "PGDATABASE": "dbname",
        "PGSERVICE": "service",
    }
    return Target(
        {parameter: env[name] for name, parameter in names.items() if env.get(name)},
        "PG* environment variables",
    )


def _from_embedded(loaded: Loaded) -> Target:
    server = embedded.running(loaded.settings.embedded.directory)
    if server is None:
        raise NoDatabase(
            "no database: nothing says which one to use, and no embedded server is running",
            hint="give --dsn, set PGHOST, or start one with `mandate db start`",
        )
    return server.target("mandate")
