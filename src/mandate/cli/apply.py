"""mandate apply: organizations, domains, scopes, specs and policies from a file, with a diff first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mandate.cli import options, output
from mandate.cli.output import Format
from mandate.errors import AwaitingApproval, DatabaseUnavailable, NoDatabase, UsageError
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.target import resolve
from mandate.settings import Loaded

if TYPE_CHECKING:
    from mandate.controlplane.governance.documents import Document
    from mandate.controlplane.governance.planning import Change, Plan
    from mandate.controlplane.governance.review import Review

_SIGNS = {"create": "+", "activate": "+", "retire": "-", "same": "="}


@options.command
def apply(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="mandate.yaml; - reads standard input.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the diff and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Look for mistakes in what the database has; changes nothing.")
    ] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Print what the database has as mandate.yaml.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of mandate.yaml.")] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    format: options.FormatOption = Format.TEXT,
) -> int:
    """Create organizations, domains, scopes, specs and policies from a file.

    Shows what will be created and asks. Nothing is ever edited: a spec or a list of policies that differs
    becomes a new version. Applying the same file again changes nothing.
    """
    if [file is not None, check, render, schema].count(True) != 1:
        raise UsageError(
            "say one of --file, --check, --render and --schema", hint="mandate apply -f mandate.yaml"
        )
    if schema:
        return _schema()
    read = _read(file) if file is not None else None
    loaded = options.load(config, {"database.dsn": dsn, "embedded.data_dir": data_dir})
    target, session = _connected(loaded, read)
    with session:
        if check:
            return _check(session, target, format)
        if read is None:
            return _render(session, format)
        return _apply(session, target, read, format, dry_run=dry_run, yes=yes)


def _connected(loaded: Loaded, read: Document | None) -> tuple[Target, Session]:
    """The database. Where there is none, what is wrong with the file's form is told rather than that."""
    from mandate.controlplane.governance import store

    try:
        target = resolve(loaded)
        return target, connect(target, application_name="mandate-apply")
    except (NoDatabase, DatabaseUnavailable):
        if read is not None:
            store.refuse(read.source, read.defects)
        raise


def _read(file: Path) -> Document:
    """The file, read before anything is connected to. What is wrong with its form is told with the rest."""
    from mandate.controlplane.governance import documents, source

    if str(file) == "-":
        return documents.parse(source.read_yaml(sys.stdin.buffer.read(source.MAX_BYTES + 1), "<stdin>"))
    return documents.parse(source.read_file(file))


def _schema() -> int:
    from mandate.controlplane.governance.shapes import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _apply(
    session: Session, target: Target, document: Document, format: Format, *, dry_run: bool, yes: bool
) -> int:
    from mandate.controlplane.governance import store

    ids = store.Ids()
    shown = store.preview(session, document, ids)
    if dry_run or not shown.creations:
        return _done(shown, document, target, format, applied=False, dry_run=dry_run)
    if not yes:
        _ask(shown, document, target, format)
    # What is written without a question is the diff as it is then; after a question, what was shown.
    written = store.apply(session, document, ids, expected=None if yes else shown)
    return _done(written, document, target, format, applied=True, asked=not yes)


def _ask(plan: Plan, document: Document, target: Target, format: Format) -> None:
    if format is Format.TEXT:
        output.stdout.print(_diff(plan, document, target), markup=False)
        output.flush()
    count = len(plan.creations)
    if not sys.stdin.isatty():
        raise AwaitingApproval(
            f"{count} to create: nobody is at a terminal to approve, and --yes was not given",
            hint="look at the diff (--dry-run), then give --yes",
            changes=[change.as_dict() for change in plan.changes],
        )
    if not output.confirm(
        f"Create {'this' if count == 1 else f'these {count}'}? Nothing can be deleted later."
    ):
        raise AwaitingApproval("not approved: nothing was changed")


def _done(
    plan: Plan,
    document: Document,
    target: Target,
    format: Format,
    *,
    applied: bool,
    dry_run: bool = False,
    asked: bool = False,
) -> int:
    data = {
        "file": document.source.name,
        "applied": applied and bool(plan.creations),
        "dry_run": dry_run,
        "created": len(plan.creations) if applied else 0,
        "to_create": 0 if applied else len(plan.creations),
        "unchanged": len(plan.changes) - len(plan.creations),
        "changes": [change.as_dict() for change in plan.changes],
    }
    output.emit(format, "apply", data, lambda: _result(plan, document, target, applied, dry_run, asked))
    return 0


def _result(plan: Plan, document: Document, target: Target, applied: bool, dry_run: bool, asked: bool) -> str:
    lines = [] if asked else [_diff(plan, document, target), ""]
    count = len(plan.creations)
    if not count:
        lines.append("Nothing to do: the database has all of it.")
    elif dry_run:
        lines.append("Dry run: nothing was changed.")
    else:
        lines.append(f"Created {count}, in one transaction.")
    return "\n".join(lines)


def _diff(plan: Plan, document: Document, target: Target) -> str:
    lines = [f"{document.source.name} on {target}"]
    organization = None
    for change in plan.changes:
        if change.organization != organization:
            lines.append("")
        organization = change.organization
        lines += _entry(change)
    same = len(plan.changes) - len(plan.creations)
    return "\n".join([*lines, "", f"{len(plan.creations)} to create, {same} there already and equal"])


def _entry(change: Change) -> Iterator[str]:
    indent = {"organization": "", "domain": "  "}.get(change.kind, "    ")
    yield f"  {_SIGNS[change.action]} {indent}{change.kind:<13}{change.name}"
    for detail in change.details if change.created else ():
        yield f"      {indent}{'':<13}{detail}"


def _check(session: Session, target: Target, format: Format) -> int:
    from mandate.controlplane.governance.review import review

    found = review(session)
    data: dict[str, Any] = {**asdict(found), "findings": [asdict(finding) for finding in found.findings]}
    output.emit(format, "apply-check", data, lambda: _review(found, target))
    return 3 if found.findings else 0


def _review(found: Review, target: Target) -> str:
    lines = [
        f"{target}: version {found.version}, {found.domains} domains, {found.specs} specs,"
        f" {found.policies} policies"
    ]
    for finding in found.findings:
        lines += ["", f"  {finding.where}", f"      {finding.message}"]
    count = len(found.findings)
    words = "Nothing is wrong with them." if not count else f"{count} mistake{'s' if count > 1 else ''}."
    return "\n".join([*lines, "", words])


def _render(session: Session, format: Format) -> int:
    from mandate.controlplane.governance import render, store

    store.require_writable(session)
    state = store.everything(session)
    data = {"documents": render.documents(state)}
    output.emit(format, "apply-render", data, lambda: render.text(state).rstrip("\n"))
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(apply)
