"""A read source as a `Document`: what is declared, each entry with its path, and what has a wrong shape.

An entry with a wrong shape is left out and said so; the others go on to the checks of their meaning, so that
one reading shows all there is to mend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mandate.controlplane.governance import shapes
from mandate.controlplane.governance.source import Defect, Mark, Path, Source

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Located(Generic[M]):
    """An entry and where it is."""

    value: M
    path: Path


@dataclass(frozen=True)
class DomainEntry:
    """What is declared of one domain. `declared`: it may be created, else it must exist.

    `policies` is None where the snapshot is to stay. `unread_*` are the ids of entries whose shape is wrong:
    what refers to them is not wrong for that.
    """

    domain: Located[shapes.Domain]
    declared: bool = True
    scopes: tuple[Located[shapes.Scope], ...] = ()
    specs: tuple[Located[shapes.Spec], ...] = ()
    policies: tuple[Located[shapes.Policy], ...] | None = None
    policies_path: Path = ()
    unread_scopes: frozenset[str] = frozenset()
    unread_specs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OrganizationEntry:
    """What is declared of one organization; `organization` is None where the file does not say whose."""

    organization: Located[shapes.Organization] | None
    domains: tuple[DomainEntry, ...] = ()
    declared: bool = True


@dataclass(frozen=True)
class Document:
    """All that a file declares, with what is wrong with its shape."""

    source: Source
    organizations: tuple[OrganizationEntry, ...] = ()
    defects: tuple[Defect, ...] = field(default=())


def parse(source: Source) -> Document:
    """The documents of a mandate.yaml."""
    reader = _Reader(source)
    entries = [reader.organization((index,)) for index in _present(source)]
    if not entries:
        reader.defects.append(Defect("there is nothing in it", mark=Mark(1, 1)))
    found = tuple(entry for entry in entries if entry is not None)
    return Document(source, found, (*source.defects, *reader.defects))


def parse_candidate(source: Source) -> Document:
    """Documents of policies to try out: a mandate.yaml, one without organization, or a bare list of policies.

    A bare list is the snapshot of a domain that the file does not name: its `domain` is ''.
    """
    reader = _Reader(source)
    found: list[OrganizationEntry] = []
    for index in _present(source):
        entry = (
            reader.bare_policies((index,))
            if isinstance(source.documents[index], list)
            else reader.organization((index,), needed=False)
        )
        found += [entry] if entry else []
    if not found and not reader.defects:
        reader.defects.append(Defect("there is nothing in it", mark=Mark(1, 1)))
    return Document(source, tuple(found), (*source.defects, *reader.defects))


def parse_posted(source: Source, kind: type[BaseModel]) -> Document:
    """One posted body: Organization, or one of the Posted* models."""
    reader = _Reader(source)
    entry = reader.posted(kind)
    return Document(source, (entry,) if entry else (), (*source.defects, *reader.defects))


def _present(source: Source) -> Iterator[int]:
    return (index for index, value in enumerate(source.documents) if value is not None)


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.defects: list[Defect] = []

    def organization(self, path: Path, *, needed: bool = True) -> OrganizationEntry | None:
        value = self._value(path)
        if not isinstance(value, Mapping):
            self.defects.append(Defect("a document begins with `mandate: 1` and `organization:`", path))
            return None
        self._head(value, path, needed)
        found = None
        if "organization" in value:
            found = self._model(shapes.Organization, (*path, "organization"))
            named = (*path, "organization", "name") in self._source.unread
            if found and not (found.value.name or found.value.organization_id or named):
                self.defects.append(Defect("an organization needs a name", found.path))
            if found is None and needed:
                found = Located(shapes.Organization(), (*path, "organization"))
        domains = [self._domain(item) for item in self._items(value, path, "domains")]
        return OrganizationEntry(found, tuple(domain for domain in domains if domain))

    def _head(self, value: Mapping[str, Any], path: Path, needed: bool) -> None:
        allowed = set(shapes.MandateFile.model_fields)
        for key in value:
            if key not in allowed:
                self.defects.append(Defect(_no_key(key, allowed), (*path, key), key=True))
        version = value.get("mandate")
        if "mandate" not in value:
            self.defects.append(Defect("`mandate: 1`, the version of the format, is missing", path))
        elif version != 1 or isinstance(version, bool):
            self.defects.append(Defect("this format is version 1", (*path, "mandate")))
        if needed and "organization" not in value:
            self.defects.append(Defect("`organization` is missing", path))

    def _domain(self, path: Path) -> DomainEntry | None:
        value = self._value(path)
        lists = frozenset({"scopes", "specs", "policies"})
        head = self._model(shapes.Domain, path, without=lists, known=shapes.DomainBlock)
        if not isinstance(value, Mapping):
            return None
        scopes, unread_scopes = self._each(shapes.Scope, value, path, "scopes", "scope_id")
        specs, unread_specs = self._each(shapes.Spec, value, path, "specs", "spec_id")
        policies, _ = self._each(shapes.Policy, value, path, "policies", "id")
        if (
            "policies" in value
            and value["policies"] is None
            and (*path, "policies") not in self._source.unread
        ):
            said = "`policies` is empty: write [] for none, or leave it out to keep the snapshot"
            self.defects.append(Defect(said, (*path, "policies"), key=True))
        if head is None:
            return None
        return DomainEntry(
            head,
            scopes=scopes,
            specs=specs,
            policies=None if value.get("policies") is None else policies,
            policies_path=(*path, "policies"),
            unread_scopes=unread_scopes,
            unread_specs=unread_specs,
        )

    def bare_policies(self, path: Path) -> OrganizationEntry:
        policies = [self._model(shapes.Policy, (*path, index)) for index in range(len(self._value(path)))]
        domain = Located(shapes.Domain.model_construct(domain=""), path)
        found = tuple(policy for policy in policies if policy)
        return OrganizationEntry(None, (DomainEntry(domain, policies=found, policies_path=path),))

    def posted(self, kind: type[BaseModel]) -> OrganizationEntry | None:
        found = self._model(kind, (0,))
        if found is None:
            return None
        value = found.value
        if isinstance(value, shapes.Organization):
            if not value.name:
                self.defects.append(Defect("`name` is missing", (0,)))
            return OrganizationEntry(Located(value, (0,)))
        given: Any = value
        organization = shapes.Organization(organization_id=given.organization_id)
        return OrganizationEntry(
            Located(organization, (0, "organization_id")), (self._posted_domain(given),), declared=False
        )

    def _posted_domain(self, given: Any) -> DomainEntry:
        if isinstance(given, shapes.PostedDomain):
            return DomainEntry(Located(given, (0,)))
        domain = Located(shapes.Domain(domain=given.domain), (0, "domain"))
        if isinstance(given, shapes.PostedScope):
            return DomainEntry(domain, declared=False, scopes=(Located(given, (0,)),))
        if isinstance(given, shapes.PostedSpec):
            return DomainEntry(domain, declared=False, specs=(Located(given, (0,)),))
        policies = tuple(
            Located(policy, (0, "policies", index)) for index, policy in enumerate(given.policies)
        )
        return DomainEntry(domain, declared=False, policies=policies, policies_path=(0, "policies"))

    def _each(
        self, kind: type[M], value: Mapping[str, Any], path: Path, key: str, identity: str
    ) -> tuple[tuple[Located[M], ...], frozenset[str]]:
        """The entries of a list whose shape is right, and the ids of the others."""
        found: list[Located[M]] = []
        unread: set[str] = set()
        for item in self._items(value, path, key):
            entry = self._model(kind, item)
            if entry:
                found.append(entry)
            elif isinstance(given := self._value(item), Mapping):
                unread.add(str(given.get(identity)))
        return tuple(found), frozenset(unread)

    def _items(self, value: Mapping[str, Any], path: Path, key: str) -> list[Path]:
        items = value.get(key)
        if items is None:
            return []
        if not isinstance(items, list):
            self.defects.append(Defect(f"`{key}` is a list: each entry begins with `- `", (*path, key)))
            return []
        return [(*path, key, index) for index in range(len(items))]

    def _value(self, path: Path) -> Any:
        value: Any = self._source.documents
        for part in path:
            value = value[part]
        return value

    def _model(
        self,
        kind: type[M],
        path: Path,
        *,
        without: frozenset[str] = frozenset(),
        known: type[BaseModel] | None = None,
    ) -> Located[M] | None:
        value = self._value(path)
        if isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if key not in without}
        try:
            return Located(kind.model_validate(value), path)
        except ValidationError as error:
            self.defects += [_defect(item, path, known or kind) for item in error.errors(include_url=False)]
            return None


def _defect(error: Any, path: Path, kind: type[BaseModel]) -> Defect:
    """One complaint of pydantic in our words, at its place."""
    where: Path = (*path, *error["loc"])
    if error["type"] == "missing":
        return Defect(f"`{where[-1]}` is missing", where)
    if error["type"] == "extra_forbidden":
        inner = _model_at(kind, error["loc"][:-1])
        return Defect(_no_key(str(where[-1]), inner.model_fields), where, key=True)
    return Defect(_said(error), where)


def _said(error: Any) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "literal_error":
        return f"{_shown(given)} is not {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"{_shown(given)} {_PATTERNS.get(context['pattern'], 'has a form that is not allowed')}"
    if kind == "string_type":
        return f"a text is needed, not {_shown(given)}" + ("" if given is None else ": quote it")
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        return "the list is empty: at least one is needed"
    words = _TYPES.get(kind)
    return f"{words}, not {_shown(given)}" if words else str(error["msg"])


_TYPES = {
    "bool_type": "true or false is needed",
    "int_type": "a whole number is needed",
    "list_type": "a list is needed",
    "dict_type": "a mapping is needed",
    "model_type": "a mapping is needed",
    "greater_than_equal": "1 or more is needed",
}
_PATTERNS = {
    shapes.UUID_PATTERN: "is not a UUID",
    r"^[a-z0-9_-]+$": "may have a to z, 0 to 9, _ and - only",
    r"^[a-z0-9_-]+(\.[a-z0-9_-]+)+$": "is not parts of a to z, 0 to 9, _ and - with dots between",
    r"^\S+$": "may have no space and must not be empty",
    r"^\S(.*\S)?$": "is empty, has more than one line, or a space at an end",
}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else repr(value)[:80]


def _no_key(key: str, known: Any) -> str:
    close = get_close_matches(key, list(known), n=1)
    return f"there is no key {_shown(key)} here" + (f": {close[0]}?" if close else "")


def _model_at(kind: type[BaseModel], where: tuple[str | int, ...]) -> type[BaseModel]:
    """The model that a place inside another model's value is read with."""
    for part in where:
        if isinstance(part, str):
            kind = _inner(kind.model_fields[part].annotation) or kind
    return kind


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := _inner(item))), None)
