"""The reference page of mandate.yaml, made from the models that it is read with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mandate.controlplane.governance import shapes, source

INTRO = f"""# mandate.yaml

What `mandate apply -f FILE` reads. `mandate apply --schema` prints the JSON Schema for editors. One document
for each organization, as many as wanted in one file, with `---` between. A
[tutorial](../tutorial/govern-an-agent.md) shows it at work.

- Everything is strict: a key that is not listed here is refused, and no value is turned into another type.
- It is YAML 1.2 without anchors, aliases, tags and merge keys. `no`, `on` and `12:30` are texts; numbers are
  decimal. At most {source.MAX_BYTES // 1024**2} MiB, {source.MAX_DEPTH} levels deep.
- Nothing is ever edited or deleted. What is there and equal stays. Changed `policies` are the next snapshot.
  A changed spec is its next version. On a version 9 database it supersedes the one that is active; `version`
  with `status: active` puts a recorded one back in force or a draft in force for the first time, and
  `status: deprecated` retires one. Policies that stay must do with a successor. A version 8 database cannot
  retire the one that is active: store the change with `status: draft`.
  Organizations, domains and scopes have no versions: what differs is refused. Descriptions, metadata and
  owners that are left out stay as they are.
- What is in the database and not in the file stays as it is.
- What `mandate replay` takes as a candidate is a mandate.yaml, one without `organization`, or a bare list of
  policies.

Beyond its form, it is refused when a scope_id does not begin with its domain and a dot; an id is there twice;
two specs are active for one intent and stage; a default verdict is not allowed; a policy refers to a scope or
spec that is not there, gives a verdict that its spec does not allow, or compares a signal that is not
declared, has another type, has no order (with `<` and the like) or has other values; or a domain has specs
and no `policies`.
"""

_MODELS: Mapping[str, type[shapes.Part]] = {
    "A document": shapes.MandateFile,
    "organization": shapes.Organization,
    "domains": shapes.DomainBlock,
    "scopes": shapes.Scope,
    "specs": shapes.Spec,
    "signals of a spec": shapes.Signal,
    "enforcement of a spec": shapes.Enforcement,
    "policies": shapes.Policy,
    "conditions of a policy": shapes.Condition,
}


def page() -> str:
    """The page."""
    return INTRO + "".join(_section(title, model) for title, model in _MODELS.items())


def _section(title: str, model: type[shapes.Part]) -> str:
    schema = model.model_json_schema()
    about = str(model.__doc__).strip()
    rows = "".join(_row(name, field, schema) for name, field in schema["properties"].items())
    return f"\n## {title}\n\n{about}\n\n| key | value | |\n|---|---|---|\n{rows}"


def _row(name: str, field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    notes = [field["description"]] if "description" in field else []
    if name in schema.get("required", ()):
        notes.insert(0, "needed")
    if isinstance(field.get("default"), str | bool):
        notes.append(f"`{str(field['default']).lower()}` when left out")
    return f"| `{name}` | {', '.join(dict.fromkeys(_kinds(field)))} | {'; '.join(notes)} |\n"


def _kinds(field: Mapping[str, Any]) -> Iterator[str]:
    """What a value may be, in words."""
    if "const" in field:
        yield f"`{field['const']}`"
    elif "enum" in field:
        yield from (f"`{value}`" for value in field["enum"])
    elif "anyOf" in field:
        for choice in field["anyOf"]:
            yield from _kinds(choice)
    elif "$ref" in field:
        yield "mapping"
    elif field.get("type") == "array":
        items = list(_kinds(field.get("items", {})))
        yield "list" if items in (["mapping"], []) else f"list of {', '.join(items)}"
    elif isinstance(field.get("type"), list):
        yield from (_WORDS[kind] for kind in field["type"])
    elif field.get("type") != "null":
        yield _WORDS[field.get("type", "object")]


_WORDS = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "object": "mapping",
}
