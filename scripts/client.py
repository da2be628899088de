"""The reference page of mandate.client, made from its signatures and docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from mandate import client
from mandate.client import documents, errors

INTRO = """# The Python client

`from mandate.client import ...`. [Call Mandate from Python](../how-to/call-mandate-from-python.md)
shows it at work.
Beside httpx it needs nothing. Its types are complete: `mypy --strict` sees what a decision may consist of.
"""
ERRORS_INTRO = """
## What is raised

Each has `message`, `hint`, `code` and `fields`. Whatever is raised, no verdict let the action happen.

"""
ARGUMENTS_INTRO = """
## Arguments by name

UUIDs are taken as such or as text; a time needs a time zone.
"""

_ARGUMENTS = (documents.Attribution, documents.DecisionFields, documents.OutcomeFields, documents.Filters)
_RETURNED = (client.Verdict, client.Decision, client.TimelineEntry, client.BatchAnswer)


def page() -> str:
    """The whole page."""
    parts = [INTRO, *_class(client.Client), *_class(client.AsyncClient)]
    parts += _function("## governed", client.governed)
    parts += _function("## current_verdict", client.current_verdict)
    parts += [ARGUMENTS_INTRO, *(_typed(kind) for kind in _ARGUMENTS)]
    parts += ["\n## What is returned\n", *(part for kind in _RETURNED for part in _returned(kind))]
    rows = "".join(
        f"| {_lineage(kind)} | `{kind.code}` | {_line(kind)} |\n" for kind in _tree(errors.ClientError)
    )
    return "".join([*parts, ERRORS_INTRO, "| exception | code | meaning |\n|---|---|---|\n", rows])


def _class(kind: type[Any]) -> Iterator[str]:
    yield from _function(f"## {kind.__name__}", kind, f"\n{_prose(kind)}\n")
    for name, member in vars(kind).items():
        public = inspect.isfunction(member) and not name.startswith("_")
        if public and inspect.getdoc(member) != f"As Client.{name}.":
            yield from _function(f"### {kind.__name__}.{name}", member)


def _function(heading: str, function: Callable[..., Any], text: str | None = None) -> Iterator[str]:
    awaited = "await " if inspect.iscoroutinefunction(function) else ""
    yield f"\n{heading}\n\n```python\n{awaited}{function.__name__}{_signature(function)}\n```\n"
    yield f"\n{_prose(function)}\n" if text is None else text


def _signature(function: Callable[..., Any]) -> str:
    """Arguments a line each where there are more than fit into one; annotations as the code spells them."""
    signature = inspect.signature(function)
    given: list[str] = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        if one.name != "self":
            given.append(_parameter(one))
    returned = signature.return_annotation
    result = "" if returned in (signature.empty, "None", None) else f" -> {returned}"
    text = f"({', '.join(given)}){result}"
    return text if len(text) <= 80 else "(\n    " + ",\n    ".join(given) + f",\n){result}"


def _parameter(one: inspect.Parameter) -> str:
    stars = "**" if one.kind is one.VAR_KEYWORD else ""
    default = "" if one.default is one.empty else f" = {json.dumps(one.default)}"
    return f"{stars}{one.name}: {one.annotation}{default.replace('null', 'None').replace('false', 'False')}"


def _typed(kind: type[Any]) -> str:
    rows = "".join(f"- `{name}`: {_annotation(value)}\n" for name, value in kind.__annotations__.items())
    return f"\n### {kind.__name__}\n\n{_prose(kind)}\n\n{rows}"


def _annotation(value: Any) -> str:
    text = str(getattr(value, "__forward_arg__", value))
    if required := re.fullmatch(r"Required\[(.*)\]", text):
        return f"`{required[1]}`, required"
    return f"`{text}`"


def _returned(kind: type[Any]) -> Iterator[str]:
    rows = "".join(f"- `{one.name}`: `{one.type}`\n" for one in fields(kind))
    yield f"\n### {kind.__name__}\n\n{_prose(kind)}\n\n{rows}"
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"- `.{name}`: {_prose(member.fget)}\n"
        elif inspect.isfunction(member):
            yield f"- `.{name}()`: {_prose(member)}\n"


def _tree(kind: type[errors.ClientError]) -> Iterator[type[errors.ClientError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _lineage(kind: type[errors.ClientError]) -> str:
    above = kind.__mro__[1]
    own = f"`{kind.__name__}`"
    return (
        own
        if above.__module__ != errors.__name__ or above is errors.ClientError
        else f"`{above.__name__}` → {own}"
    )


def _line(kind: type[Any]) -> str:
    return _prose(kind).replace("\n\n", " ").replace("|", "\\|")


def _prose(described: Any) -> str:
    paragraphs = (inspect.getdoc(described) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
