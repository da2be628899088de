"""/docs: the API's own description as one page: no script, and nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mandate.controlplane.api.problems import KINDS
from mandate.controlplane.api.problems import MEDIA_TYPE as PROBLEM
from mandate.controlplane.governance.shapes import UUID_PATTERN

_TEMPLATES = Path(__file__).parent / "templates"
_REFERENCE = "#/components/schemas/"
_MOST_NESTED = 4
_SIMPLE = {"boolean": "true or false", "object": "object", "null": "null", "number": "number"}
_TEXT_FORMATS = {"uuid": "UUID", "date-time": "time (RFC 3339)"}

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A parameter, or a key of a document; `name` of one inside another is `outer[].inner`."""

    name: str
    type: str
    needed: bool
    words: str
    where: str = ""


@dataclass(frozen=True)
class Body:
    """What is sent: its media type, its keys, and an example as JSON text."""

    media_type: str
    fields: tuple[Field, ...]
    example: str


@dataclass(frozen=True)
class Answer:
    """A status that is no problem; `document` names what is under Documents."""

    status: str
    words: str
    document: str | None


@dataclass(frozen=True)
class Operation:
    """One method of one path. `roles` is None where no token is needed."""

    method: str
    path: str
    title: str
    words: str
    roles: tuple[str, ...] | None
    parameters: tuple[Field, ...]
    body: Body | None
    answers: tuple[Answer, ...]
    problems: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """Where the page has it."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.method} {self.path}".lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A document that answers have, under its name in the description."""

    name: str
    words: str
    fields: tuple[Field, ...]
    example: str


def render(description: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document. The same document gives the same page, byte for byte."""
    groups: dict[str, list[Operation]] = {}
    for operation, tag in _operations(description):
        groups.setdefault(tag, []).append(operation)
    schemas = description["components"]["schemas"]
    return (
        _environment()
        .get_template("docs.html.j2")
        .render(
            info=description["info"],
            groups=groups,
            documents=[_document(name, schemas[name]) for name in sorted(schemas)],
            kinds=sorted(KINDS, key=lambda kind: (kind.status, kind.name)),
            style=Markup(_style()),
        )
    )


@cache
def headers() -> Mapping[str, str]:
    """What keeps the page from loading or running anything but its own style."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


@cache
def _style() -> str:
    return (_TEMPLATES / "docs.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.filters["code"] = _code
    environment.filters["linked"] = _linked
    return environment


def _prose(text: str) -> Markup:
    """Paragraphs, and `code` between backticks."""
    return Markup("").join(Markup("<p>{}</p>").format(_code(part)) for part in text.strip().split("\n\n"))


def _code(text: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _linked(type_: str, names: Collection[str]) -> Markup:
    """A type whose last word is a document's name leads there."""
    before, _, last = type_.rpartition(" ")
    if last not in names:
        return escape(type_)
    return Markup('{} <a href="#doc-{}">{}</a>').format(before, last, last)


def _operations(description: Mapping[str, Any]) -> Iterator[tuple[Operation, str]]:
    for path, methods in description["paths"].items():
        for method, told in methods.items():
            answers, problems = _answers(told["responses"])
            yield (
                Operation(
                    method.upper(),
                    path,
                    told["summary"],
                    told.get("description", ""),
                    tuple(told["x-mandate-roles"]) if told["security"] else None,
                    tuple(_parameter(one) for one in told.get("parameters", ())),
                    _body(told.get("requestBody")),
                    answers,
                    problems,
                ),
                told["tags"][0],
            )


def _answers(responses: Mapping[str, Any]) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
    """Those that give what was asked for, and the statuses of the others."""
    fine, problems = [], []
    for status, response in sorted(responses.items()):
        content = response.get("content", {})
        if PROBLEM in content:
            problems.append(status)
            continue
        schema: Schema = next((each["schema"] for each in content.values()), {})
        said = response["description"]
        words = HTTPStatus(int(status)).phrase if said == "Successful Response" else said
        fine.append(Answer(status, words, _referred(schema)))
    return tuple(fine), tuple(problems)


def _parameter(told: Mapping[str, Any]) -> Field:
    words = told.get("description", "")
    if "example" in told:
        words = f"{words} Such as `{told['example']}`.".strip()
    return Field(told["name"], _type(told["schema"]), told["required"], words, told["in"])


def _body(told: Mapping[str, Any] | None) -> Body | None:
    if told is None:
        return None
    media_type, content = next(iter(told["content"].items()))
    schema = content["schema"]
    return Body(media_type, tuple(_fields(schema)), _example(content) or _example(schema))


def _document(name: str, schema: Schema) -> Document:
    return Document(name, schema.get("description", ""), tuple(_fields(schema)), _example(schema))


def _example(told: Mapping[str, Any]) -> str:
    if "example" in told:
        value = told["example"]
    elif told.get("examples"):
        value = told["examples"][0]
    else:
        return ""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _fields(schema: Schema, before: str = "", depth: int = 0) -> Iterator[Field]:
    """The keys of an object, and of the objects inside that have no name of their own."""
    needed = schema.get("required", ())
    for key, value in schema.get("properties", {}).items():
        name = before + key
        yield Field(name, _type(value), key in needed, value.get("description", ""))
        inner, suffix = _inside(value)
        if depth < _MOST_NESTED:
            yield from _fields(inner, name + suffix, depth + 1)


def _inside(schema: Schema) -> tuple[Schema, str]:
    """The object that a value is, or is a list of."""
    for each in schema.get("anyOf", (schema,)):
        if each.get("type") == "array":
            inner, suffix = _inside(each.get("items", {}))
            return inner, f"[]{suffix}"
        if "properties" in each:
            return each, "."
    return {}, ""


def _type(schema: Schema) -> str:
    """The type of a value in words."""
    if named := _referred(schema):
        return named
    if "anyOf" in schema:
        types = list(dict.fromkeys(_type(each) for each in schema["anyOf"] if each != {"type": "null"}))
        return " or ".join(types) + (" (or null)" if {"type": "null"} in schema["anyOf"] else "")
    if "enum" in schema or "const" in schema:
        return " | ".join(str(each) for each in schema.get("enum", (schema.get("const"),)))
    type_ = schema.get("type")
    if type_ == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if type_ == "string":
        format_ = "uuid" if schema.get("pattern") == UUID_PATTERN else schema.get("format", "")
        return _TEXT_FORMATS.get(format_, "text") + _length(schema)
    if type_ == "integer":
        return "whole number" + _range(schema)
    return _SIMPLE.get(str(type_), "any value")


def _length(schema: Schema) -> str:
    return f", at most {schema['maxLength']:,} characters" if "maxLength" in schema else ""


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    preset = f", {schema['default']} by default" if "default" in schema else ""
    if low is None:
        return preset
    return (f" from {low}" if high is None else f" from {low} to {high:,}") + preset


def _referred(schema: Schema) -> str | None:
    reference = schema.get("$ref", "")
    return reference.removeprefix(_REFERENCE) if reference.startswith(_REFERENCE) else None
