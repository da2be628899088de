"""Every error that Mandate raises on purpose, and the exit code each one ends with.

An error says what happened (`message`), what to do next (`hint`) and carries its figures in `fields`, so
that text and JSON output show the same thing. This module imports nothing of the project.
"""

from __future__ import annotations

from typing import Any


class MandateError(Exception):
    """Base of all. `exit_code` is what the process ends with; `code` is the stable name in JSON."""

    exit_code: int = 1
    code: str = "internal"

    def __init__(self, message: str, *, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON-able data: code, message, hint, exit_code, fields."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
            "fields": self.fields,
        }


class UsageError(MandateError):
    """A flag, a variable or a line of mandate.toml that cannot be meant."""

    exit_code = 2
    code = "usage"


class SettingsError(UsageError):
    """mandate.toml or the environment does not validate; the message names the key."""

    code = "settings"


class NoDatabase(UsageError):
    """Nothing says which database to talk to, and no embedded server is running."""

    code = "no-database"


class CheckFailed(MandateError):
    """A pre-check failed: nothing was changed."""

    exit_code = 3
    code = "pre-check-failed"


class NotMandate(CheckFailed):
    """The database is reachable and is not a Mandate database."""

    code = "not-mandate"


class UnsupportedServer(CheckFailed):
    """The server's PostgreSQL is older than 14."""

    code = "unsupported-server"


class EditedMigration(CheckFailed):
    """A file of migrations/ differs from what was applied to this database."""

    code = "edited-migration"


class BackupFailed(MandateError):
    """No proven backup exists: nothing was changed."""

    exit_code = 4
    code = "backup-failed"


class MigrationFailed(MandateError):
    """The migrating step failed and the database is unchanged."""

    exit_code = 5
    code = "migration-failed"


class NotEnoughSpace(MigrationFailed):
    """The new tables will not fit beside the old ones; the message has need, free and missing bytes."""

    code = "not-enough-space"


class DiskFilled(MigrationFailed):
    """A disk filled up while new tables were built: they were dropped, and clients go on as before."""

    code = "disk-filled"


class VerificationFailed(MandateError):
    """Verification, a constraint probe or a smoke test failed after the migration."""

    exit_code = 6
    code = "verification-failed"


class RunLocked(MandateError):
    """Another run holds this database; the message names it."""

    exit_code = 7
    code = "locked"


class RolledBack(MandateError):
    """The run failed and the database is back as it was."""

    exit_code = 8
    code = "rolled-back"


class NeedsPerson(MandateError):
    """Nothing that software should decide alone."""

    exit_code = 9
    code = "needs-a-person"


class WriterConnected(NeedsPerson):
    """Services were stopped and somebody can still write; the message names them."""

    code = "writer-connected"


class ServiceFailed(NeedsPerson):
    """A service did not stop, start or become ready."""

    code = "service-failed"


class EmbeddedServerError(NeedsPerson):
    """The embedded PostgreSQL cannot be started, stopped or trusted to be ours."""

    code = "embedded-server"


class AwaitingApproval(MandateError):
    """A go/no-go point without a terminal and without --yes."""

    exit_code = 10
    code = "awaiting-approval"


class DatabaseError(MandateError):
    """PostgreSQL refused a statement. `sqlstate` is in fields; steps turn it into their own exit code."""

    exit_code = 9
    code = "database"

    @property
    def sqlstate(self) -> str | None:
        value = self.fields.get("sqlstate")
        return value if isinstance(value, str) else None


class DatabaseUnavailable(DatabaseError):
    """The server cannot be reached, or the connection was lost."""

    code = "database-unavailable"


class AuthenticationFailed(DatabaseError):
    """The server refused the user or the password."""

    exit_code = 2
    code = "authentication-failed"


class LockNotAvailable(DatabaseError):
    """A lock was not granted in time (55P03) or a deadlock was broken (40P01)."""

    code = "lock-not-available"


class DiskFull(DatabaseError):
    """The server or a program ran out of disk (53100, ENOSPC)."""

    code = "disk-full"


class OutcomeUnknown(DatabaseError):
    """The connection was lost during COMMIT: it may have committed. Never retried blindly."""

    code = "may-have-committed"


class ProgramError(MandateError):
    """A program of PostgreSQL is missing or exited non-zero; its last lines are in the message."""

    exit_code = 9
    code = "program"


class Terminated(BaseException):
    """SIGTERM arrived. Unwinds like Ctrl-C, so that nothing is left half-done."""

    exit_code = 143
