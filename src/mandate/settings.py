"""The one reader of environment variables and mandate.toml.

Precedence: flag, environment (`MANDATE_<SECTION>__<KEY>`), mandate.toml, default. Secrets are
`SecretStr` and never leave unredacted.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_config_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource

from mandate.errors import SettingsError

CONFIG_NAME = "mandate.toml"


class Section(BaseModel):
    """A table of mandate.toml; an unknown key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(Section):
    """Which database the migration and the service use."""

    dsn: SecretStr | None = Field(None, description="PostgreSQL connection string or URL")
    lock_timeout_seconds: float = Field(
        10.0, gt=0, le=3600, description="how long the migrating step may wait for each lock"
    )


class EmbeddedSettings(Section):
    """The PostgreSQL that comes with the package."""

    data_dir: Path | None = Field(None, description="cluster directory; per-user default")
    port: int | None = Field(None, ge=0, le=65535, description="TCP port; 5432 when free; 0: any")
    version: Literal[16, 18] = Field(18, description="major version of a new cluster")

    @property
    def directory(self) -> Path:
        """The data directory in force, absolute. Root's is outside its home, which no server may enter."""
        default = user_data_path("mandate") / "postgresql"
        if os.geteuid() == 0 and "XDG_DATA_HOME" not in os.environ:
            default = Path("/var/lib/mandate/postgresql")
        return (self.data_dir or default).expanduser().absolute()


class ProcessSettings(Section):
    """One service run as a plain process with a pid file."""

    name: str = Field(min_length=1, description="as it appears in messages")
    command: list[str] = Field(min_length=1, description="argv; no shell")
    pid_file: Path
    log_file: Path | None = Field(None, description="where its output goes")
    directory: Path | None = Field(None, description="working directory")
    environment: dict[str, str] = Field(default_factory=dict)


class ServicesSettings(Section):
    """What steps 1 and 9 of the guide stop and start."""

    kind: Literal["none", "compose", "systemd", "process", "command"] = Field(
        "none", description="how services are stopped and started; none: somebody else does it"
    )
    compose_file: Path | None = Field(None, description="docker-compose.yml; compose's own default")
    units: list[str] = Field(
        default_factory=lambda: ["mandate-*.service"], description="systemd unit names or patterns"
    )
    process: list[ProcessSettings] = Field(default_factory=list)
    stop_command: list[str] = Field(default_factory=list, description="kind command: argv that stops")
    start_command: list[str] = Field(default_factory=list, description="kind command: argv that starts")
    status_command: list[str] = Field(
        default_factory=list, description="kind command: argv that exits 0 while services run"
    )
    stop_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="how long a stop may take")
    ready_timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="how long services may take to be ready after the start"
    )
    ready_url: str | None = Field(
        None, description="polled after the start; <smoke.base_url>/readyz if unset"
    )
    ignore_applications: list[str] = Field(
        default_factory=list,
        description="application_name patterns (*, ?) that may stay connected after the stop",
    )


class BackupSettings(Section):
    """Step 2 of the guide: the backup."""

    directory: Path = Field(Path("backups"), description="where finished backups are archived")
    format: Literal["custom", "directory"] = Field(
        "custom", description="of pg_dump; directory is written by several jobs"
    )
    jobs: int | None = Field(None, ge=1, le=64, description="parallel jobs; processors by default")


class SmokeSettings(Section):
    """Step 10 of the guide: the smoke tests."""

    base_url: str = Field("http://localhost:3000", description="where the service answers")
    domain: str | None = Field(None, description="domain to filter by; one with decisions if unset")
    token: SecretStr | None = Field(None, description="auditor token, where the service needs one")
    log_globs: list[str] = Field(
        default_factory=lambda: ["/var/log/mandate/*.log"],
        description="logs scanned for errors, with that of serve.log_dir",
    )
    timeout_seconds: float = Field(10.0, gt=0, le=600, description="per call")


class NotifySettings(Section):
    """Who is told when a run fails, is rolled back or completes (apprise URLs)."""

    urls: list[SecretStr] = Field(
        default_factory=list, description="for example mailto://, slack://, json://host/path"
    )


class RunSettings(Section):
    """Where runs keep their files."""

    directory: Path = Field(Path("runs"), description="one directory per run is made in here")
    mapping: Path | None = Field(None, description="reviewed 008.toml; ./008.toml if it is there")
    signing_key: Path | None = Field(
        None, description="Ed25519 key (PEM) that signs evidence.json; the user's own, made once"
    )


class ServeSettings(Section):
    """The HTTP service."""

    host: str = Field("127.0.0.1", description="loopback only, unless there are tokens")
    port: int = Field(3000, ge=0, le=65535)
    log_dir: Path | None = Field(None, description="/var/log/mandate when writable by default")
    pool_size: int = Field(8, ge=1, le=200, description="connections to PostgreSQL")


class Settings(BaseSettings):
    """All of mandate.toml."""

    model_config = {"env_prefix": "MANDATE_", "env_nested_delimiter": "__", "extra": "forbid"}

    database: DatabaseSettings = DatabaseSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    services: ServicesSettings = ServicesSettings()
    backup: BackupSettings = BackupSettings()
    smoke: SmokeSettings = SmokeSettings()
    notify: NotifySettings = NotifySettings()
    run: RunSettings = RunSettings()
    serve: ServeSettings = ServeSettings()


class Loaded:
    """Settings together with where each value came from (flag, environment, file, default)."""

    def __init__(self, settings: Settings, origins: Mapping[str, str], file: Path | None) -> None:
        self.settings = settings
        self.origins = dict(origins)
        self.file = file

    def origin(self, key: str) -> str:
        """Origin of a dotted key such as `serve.port`."""
        return self.origins.get(key, "default")


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    directory: Path | None = None,
) -> Loaded:
    """Read mandate.toml and the environment, lay `flags` (dotted keys) over them, validate.

    `file` must exist when given; otherwise `mandate.toml` in `directory` (default: here), then in the
    per-user configuration directory, is used if it is there. Raises SettingsError naming the key.
    """
    path = _find(file, directory or _here())
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    _overlay(merged, _absolute_paths(_read_toml(path), path), f"file {path}", origins)
    _overlay(merged, _environment(), "environment", origins)
    for key, value in (flags or {}).items():
        if value is not None:
            _overlay(merged, _nest(key, value), "flag", origins)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, origins) from None
    return Loaded(settings, origins, path)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise SettingsError(
            "the directory that this shell is in was deleted", hint="cd to one that is there"
        ) from None


def _find(file: Path | None, directory: Path) -> Path | None:
    named = file or (Path(value) if (value := os.environ.get("MANDATE_CONFIG")) else None)
    if named is not None:
        if not named.is_file():
            raise SettingsError(f"settings file {named} does not exist", hint="check --config")
        return named.absolute()
    for candidate in (directory / CONFIG_NAME, user_config_path("mandate") / CONFIG_NAME):
        if candidate.is_file():
            return candidate.absolute()
    return None


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


_PATH_KEYS = {
    "compose_file",
    "data_dir",
    "directory",
    "log_dir",
    "log_file",
    "mapping",
    "pid_file",
    "signing_key",
}


def _absolute_paths(value: Any, path: Path | None) -> Any:
    """A relative path in a settings file is meant relative to that file."""
    if path is None:
        return value
    if isinstance(value, dict):
        return {
            key: str(path.parent / Path(item).expanduser())
            if key in _PATH_KEYS and isinstance(item, str)
            else _absolute_paths(item, path)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_absolute_paths(item, path) for item in value]
    return value


def _environment() -> dict[str, Any]:
    try:
        found: dict[str, Any] = EnvSettingsSource(Settings, case_sensitive=False)()
    except (ValueError, TypeError) as error:
        raise SettingsError(f"environment variable MANDATE_...: {error}") from None
    return found


def _nest(key: str, value: Any) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return dict(nested)


def _overlay(
    base: dict[str, Any],
    layer: Mapping[str, Any],
    origin: str,
    origins: dict[str, str],
    prefix: str = "",
) -> None:
    for key, value in layer.items():
        dotted = prefix + key
        if isinstance(value, Mapping) and isinstance(base.setdefault(key, {}), dict):
            _overlay(base[key], value, origin, origins, dotted + ".")
        else:
            base[key] = value
            origins[dotted] = origin


def _explain(error: ValidationError, origins: Mapping[str, str]) -> SettingsError:
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    origin = origins.get(key, "settings")
    if first["type"] == "extra_forbidden":
        message = f"unknown setting {key} ({origin})"
    else:
        message = f"setting {key} ({origin}): {first['msg']}"
    return SettingsError(message, hint="`mandate doctor` lists every setting", key=key)


def migrations_override() -> Path | None:
    """MANDATE_MIGRATIONS_DIR: migration files to use instead of the ones that come with the package."""
    value = os.environ.get("MANDATE_MIGRATIONS_DIR")
    return Path(value).expanduser().absolute() if value else None


def describe(settings: Settings) -> dict[str, str]:
    """Every setting as dotted key -> text, secrets redacted."""
    return dict(_flatten(settings, ""))


def _flatten(model: BaseModel, prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            rows += _flatten(value, f"{prefix}{name}.")
        elif value is None:
            rows.append((prefix + name, "not set"))
        else:
            rows.append((prefix + name, str(value)))
    return rows
