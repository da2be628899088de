"""Write the pages of docs/reference that are made from the code: commands, exit codes, settings.

`python -m scripts.reference` writes them; tests/acceptance/test_docs.py fails when they differ from the code.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from scripts import client, governance
from typer.main import get_command

from mandate import errors, settings
from mandate.cli.app import build

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "<!-- Made from the code by `make docs`; do not edit. -->\n\n"


def pages() -> dict[Path, str]:
    """Path relative to the repository -> text of every generated page."""
    return {
        Path("docs/reference/commands.md"): NOTICE + commands_page(),
        Path("docs/reference/exit-codes.md"): NOTICE + exit_codes_page(),
        Path("docs/reference/client.md"): NOTICE + client.page(),
        Path("docs/reference/mandate.toml.md"): NOTICE + settings_page(),
        Path("docs/reference/mandate.yaml.md"): NOTICE + governance.page(),
    }


def main() -> None:
    """Write the pages that changed."""
    for path, text in pages().items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text("utf-8") != text:
            target.write_text(text, "utf-8")
            print(f"wrote {path}")


# Commands. What Typer makes of them has no public type: hence Any.


def commands_page() -> str:
    """Every command with its arguments and options, in the order of `mandate --help`."""
    intro = (
        "# Commands\n\n"
        "Data goes to standard output, progress and logs to standard error. Every command that takes\n"
        "`--format json` prints one JSON document with a versioned `schema`. What each exit status means:\n"
        "[exit codes](exit-codes.md). What a flag overrides: [mandate.toml](mandate.toml.md).\n"
    )
    sections = [_command(*entry) for entry in _walk("mandate", get_command(build()))]
    return intro + "".join(sections)


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _walk(f"{path} {name}", child)


def _command(path: str, command: Any) -> str:
    visible = [p for p in command.params if not p.hidden and p.name != "help"]
    arguments = [p for p in visible if p.param_type_name == "argument"]
    options = [p for p in visible if p.param_type_name == "option"]
    usage = " ".join([path, *(["[options]"] if options else []), *(_metavar(a) for a in arguments)])
    parts = [f"\n## {path}\n", f"\n```text\n{usage}\n```\n", f"\n{_prose(command.help)}\n"]
    if visible:
        context = command.make_context(path, [], resilient_parsing=True)
        rows = [(_spelling(p, context), _prose(p.help) + _default(p)) for p in arguments + options]
        parts.append("\n" + _table(("", "meaning"), rows))
    return "".join(parts)


def _metavar(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _spelling(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    value = str(parameter.display_type(context)).strip("<>")
    return f"{names} `{value if '|' in value else value.upper()}`"


def _default(parameter: Any) -> str:
    default = parameter.default
    if default in (None, False, (), []) or callable(default) or parameter.required:
        return ""
    if not isinstance(default, str | int | float | Path):
        return ""
    return f" Default: `{getattr(default, 'value', default)}`."


def _prose(text: str | None) -> str:
    """Rich markup and terminal line breaks taken out; paragraphs kept."""
    plain = re.sub(r"\[/?(bold|dim|italic|red|green|yellow|cyan)[^\]]*\]", "", text or "")
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(plain.replace("\b", "")))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(left)} | {_cell(right)} |" for left, right in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Exit codes.

SUMMARIES = {
    0: "done",
    1: "internal error: a bug; please report it",
    2: "usage: a flag, a setting or a connection that cannot be meant",
    3: "a pre-check failed; nothing was changed",
    4: "no proven backup; nothing was changed",
    5: "the migration failed; the database is as it was",
    6: "verification, a constraint probe or a smoke test failed; a replay found another verdict",
    7: "another run holds this database",
    8: "rolled back: the database is as it was before the run",
    9: "a person has to look",
    10: "waiting for approval: a go/no-go point without a terminal and without `--yes`",
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}

EXIT_CODES_NOTE = """
With `--format json` a failed command prints `{"schema": "mandate.error/1", "error": {...}}` with the stable
`code` below, the message, a hint and the error's figures. A run that failed and was rolled back cleanly is
still a failed run: it ends with 8, not with 0. `mandate rollback` ends with 0 when it has done what was
asked.
"""


def exit_codes_page() -> str:
    """The exit codes, and under each the errors that end with it."""
    by_code: dict[int, list[type[errors.MandateError]]] = {}
    for error in _tree(errors.MandateError):
        by_code.setdefault(error.exit_code, []).append(error)
    rows = [(f"{number}", meaning) for number, meaning in SUMMARIES.items()]
    parts = ["# Exit codes\n\n", _table(("status", "meaning"), rows), EXIT_CODES_NOTE]
    for number in sorted(by_code):
        found = sorted(by_code[number], key=lambda error: error.code)
        parts.append(f"\n## {number}\n\n")
        parts.append(_table(("code", "meaning"), [(f"`{e.code}`", _prose(e.__doc__)) for e in found]))
    return "".join(parts)


def _tree(error: type[errors.MandateError]) -> Iterator[type[errors.MandateError]]:
    if error is not errors.MandateError:
        yield error
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


# Settings.

SETTINGS_INTRO = """\
# mandate.toml

Read from the current directory, else from the per-user configuration directory; `--config FILE` or
`MANDATE_CONFIG` names another. A flag wins over the environment, the environment over the file, the file over
the default; `mandate doctor` shows where each value came from. In the environment a key is called
`MANDATE_SECTION__KEY`, for example `MANDATE_SERVE__PORT=8080`. A relative path in the file is relative to the
file. An unknown key is an error that names it.

Every setting with its default:

"""


def settings_page() -> str:
    """A complete mandate.toml with every default, every line commented out."""
    sections = [_section(name, field.annotation) for name, field in settings.Settings.model_fields.items()]
    return SETTINGS_INTRO + "```toml\n" + "\n".join(sections) + "```\n"


def _section(name: str, model: Any) -> str:
    lines = [f"# {_prose(model.__doc__)}", f"[{name}]"]
    nested: list[str] = []
    for key, field in model.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner is None:
            lines += _setting(key, field)
        else:
            nested += ["", f"# {_prose(inner.__doc__)}", f"# [[{name}.{key}]]"]
            for inner_key, inner_field in inner.model_fields.items():
                nested += _setting(inner_key, inner_field)
    return "\n".join(lines + nested) + "\n"


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    return None


def _setting(key: str, field: FieldInfo) -> list[str]:
    explanation = [f"# {field.description}"] if field.description else []
    choices = [str(choice) for choice in get_args(field.annotation)] if _is_literal(field) else []
    if choices:
        explanation.append(f"# one of: {', '.join(choices)}")
    return ["", *explanation, f"# {key} = {_toml(field)}"]


def _is_literal(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is not None and not any(
        isinstance(argument, type) or get_origin(argument) or argument is None
        for argument in get_args(field.annotation)
    )


def _toml(field: FieldInfo) -> str:
    if field.is_required():
        return "[]" if get_origin(field.annotation) is list else '"..."'
    default = field.get_default(call_default_factory=True)
    if default is None:
        return '"..."' if not _is_number(field) else "..."
    if isinstance(default, dict):
        return "{}"
    if isinstance(default, SecretStr | Path):
        default = str(default)
    return json.dumps(default)


def _is_number(field: FieldInfo) -> bool:
    return any(argument in (int, float) for argument in get_args(field.annotation))


if __name__ == "__main__":
    main()
