"""Which database is meant: flag, environment, mandate.toml, libpq's own variables, embedded server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path

from mandate.errors import NoDatabase, UsageError
from mandate.postgres import embedded
from mandate.postgres.connection import Target
from mandate.settings import Loaded

_LIBPQ = "PG* environment variables"
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
        return _with_service(Target.from_dsn(dsn.get_secret_value(), name), env)
    if any(env.get(name) for name in _LIBPQ_VARIABLES):
        return _with_service(_from_libpq(env), env)
    if url := env.get("DATABASE_URL"):
        return _with_service(Target.from_dsn(url, "DATABASE_URL"), env)
    if dsn is not None:
        return _with_service(Target.from_dsn(dsn.get_secret_value(), "mandate.toml"), env)
    return _from_embedded(loaded)


def _with_service(target: Target, env: Mapping[str, str]) -> Target:
    """The target with its service's parameters in place of the name, so that it says which database.

    What stands beside `service` in a DSN wins over the file; what PG* variables say does not.
    """
    name = target.parameters.get("service")
    if name is None:
        return target
    files = _service_files(env)
    for path in files:
        found = _service(path, name)
        if found is not None:
            given = {key: value for key, value in target.parameters.items() if key != "service"}
            merged = {**given, **found} if target.source == _LIBPQ else {**found, **given}
            return Target(merged, f"{target.source}, service {name}")
    looked = ", ".join(map(str, files))
    raise UsageError(f"there is no service {name!r} in {looked}", hint="PGSERVICEFILE names another file")


def _service_files(env: Mapping[str, str]) -> list[Path]:
    """Where libpq looks, in its order."""
    own = Path(env["PGSERVICEFILE"]) if env.get("PGSERVICEFILE") else Path.home() / ".pg_service.conf"
    system = [Path(env["PGSYSCONFDIR"]) / "pg_service.conf"] if env.get("PGSYSCONFDIR") else []
    return [own, *system]


def _service(path: Path, name: str) -> dict[str, str] | None:
    parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="")
    try:
        parser.read_string(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return dict(parser[name]) if parser.has_section(name) else None


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
        _LIBPQ,
    )


def _from_embedded(loaded: Loaded) -> Target:
    server = embedded.running(loaded.settings.embedded.directory)
    if server is None:
        raise NoDatabase(
            "no database: nothing says which one to use, and no embedded server is running",
            hint="give --dsn, set PGHOST, or start one with `mandate db start`",
        )
    return server.target("mandate")
