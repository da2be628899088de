"""What a person asks for: which keys change, into what, in a TOML file.

[rekey]
name = "customers"                     # names the working schemas; [a-z0-9_], at most 30 characters

[[key]]
table = "public.customers"
columns = ["id"]                       # the old key; it must be a primary or unique key
[[key.new]]
name = "id"                            # same name: the column is converted in place
type = "bigint"
expression = "id::bigint"              # over the columns of the parent's row
inverse = "id::int"                    # new -> old for rows born after the cutover; else see old_default

[[key]]
table = "mandate.domains"
columns = ["domain_id"]
drop = { name = "domain" }             # further columns that go away, and how a new row's is made
old_default = "gen_random_uuid()"      # an old key for a parent that is born after the cutover
[[key.new]]
name = "organization_id"               # an existing column: taken as it is
[[key.new]]
name = "domain"
type = "text"
expression = "name"

[[key]]
table = "mandate.scopes"
columns = ["scope_id"]
old_default = "gen_random_uuid()"
query = "SELECT scope_id, ..."         # old key, then the typed new columns, where they depend on other
[[key.new]]                            # rows; read again whenever a parent was written
name = "scope_id"
type = "text"

[[reference]]                          # only where the default names do not fit
table = "public.orders"
columns = ["customer"]
new = ["customer_id"]

[[json]]                               # keys that stand in a jsonb column
table = "mandate.policy_snapshots"
column = "policies"
path = "$[*].scope_id"                 # of the strings: members and [*]
key = "mandate.scopes"

[[index]]                              # a new one, and regular expressions of those that it replaces
table = "mandate.scopes"
name = "idx_scopes_organization_domain"
on = "(organization_id, domain)"
instead_of = ["USING btree \\\\(domain_id\\\\)$"]

[[foreign_key]]                        # one that the new table has in any case, under this name
table = "mandate.scopes"
name = "scopes_organization_domain_fkey"
columns = ["organization_id", "domain"]
references = "mandate.domains"
referred = ["organization_id", "domain"]

[[check]]
table = "mandate.domains"
name = "domains_domain_slug_format"
expression = "domain ~ '^[a-z0-9_-]+$'"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from mandate.errors import UsageError

_NAME = r"^[^\x00]+$"
_QUALIFIED = r"^[^.\x00]+\.[^.\x00]+$"
_REKEY = r"^[a-z0-9_]{1,30}$"
# Each step is a subquery inside the one before.
_PATH = r"^\$((\[\*\])|(\.[A-Za-z_][A-Za-z0-9_]*)){1,32}$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_NAME)]
Qualified = Annotated[str, StringConstraints(pattern=_QUALIFIED)]

# What a pattern asks for, in words.
_PATTERNS = {
    _QUALIFIED: "give it as schema.table, without quotes",
    _REKEY: "only a-z, 0-9 and _, at most 30 characters",
    _PATH: "it is $ and at most 32 steps, each .member (A-Z, a-z, 0-9, _) or [*]",
}

JsonPath = Annotated[str, StringConstraints(pattern=_PATH)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewColumn(_Part):
    """A column of the new key. Without a type it is an existing column, taken as it is.

    `replaces`: the parent's column whose place, comment and privileges it takes over, where the expression
    does not show it.
    """

    name: Name
    type: str | None = None
    expression: str | None = None
    inverse: str | None = None
    replaces: Name | None = None

    @property
    def existing(self) -> bool:
        """Whether the parent has this column already."""
        return self.type is None


class Key(_Part):
    """One parent whose key changes."""

    table: Qualified
    columns: list[Name] = Field(min_length=1)
    new: list[NewColumn] = Field(min_length=1)
    drop: dict[Name, str] = Field(
        default_factory=dict, description="columns that go away -> expression over a new row to get them back"
    )
    old_default: str | None = None
    not_null: bool = Field(False, description="every reference must have a value afterwards")
    query: str | None = Field(None, description="old key -> the new columns that have a type, for all rows")

    @property
    def made(self) -> tuple[NewColumn, ...]:
        """The new columns that are not there already."""
        return tuple(column for column in self.new if not column.existing)

    @model_validator(mode="after")
    def _types_and_values(self) -> Key:
        for column in self.new:
            if column.existing and column.expression is not None:
                raise ValueError(f"column {column.name}: an expression needs a type")
            if not column.existing and (column.expression is None) == (self.query is None):
                raise ValueError(f"column {column.name}: a type needs an expression, or the key a query")
            if self.query is not None and column.inverse is not None:
                raise ValueError(f"column {column.name}: with a query, give the key old_default, not inverse")
        return self


class Reference(_Part):
    """A child's columns that refer to a key: names of the new columns, in the order of the key.

    With `key` (a parent's table) it is a reference even where no foreign key says so. `drop_default`: a
    default, which is an old key, goes away instead of being refused.
    """

    table: Qualified
    columns: list[Name] = Field(min_length=1)
    new: list[Name] = Field(default_factory=list)
    key: Qualified | None = None
    drop_default: bool = False


class Check(_Part):
    """A CHECK constraint that the new table gets."""

    table: Qualified
    name: Name
    expression: str


class JsonKey(_Part):
    """Strings in a jsonb column that are keys: each becomes the new key's `new`.

    `old`: the parent's column (of the old key, or one that goes away) whose text stands there. `same`: the
    parent's column -> this table's, where that alone does not tell the parent. `rename`: the member's name
    afterwards; such a one is not renamed back, so another entry must make the old text of the new name.
    """

    table: Qualified
    column: Name
    path: JsonPath
    key: Qualified
    old: Name | None = None
    new: Name | None = None
    same: dict[Name, Name] = Field(default_factory=dict)
    rename: Name | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """Members' names, and "*" for the elements of an array."""
        return tuple(
            "*" if step == "[*]" else step[1:] for step in re.findall(r"\[\*\]|\.[A-Za-z_0-9]+", self.path)
        )

    @model_validator(mode="after")
    def _a_member(self) -> JsonKey:
        if self.rename is not None and self.steps[-1] == "*":
            raise ValueError("rename needs a path that ends with a member")
        return self


class Index(_Part):
    """An index that the new table gets. `on`: what follows the table's name in CREATE INDEX.

    `instead_of`: regular expressions over pg_get_indexdef of old ones that serve no constraint.
    `until_final`: it refuses what the old table does, so that the way back stays open; `finalize` drops it.
    """

    table: Qualified
    name: Name
    on: str
    unique: bool = False
    until_final: bool = False
    instead_of: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _expressions(self) -> Index:
        _require_regular(self.instead_of, "instead_of")
        return self


class ForeignKey(_Part):
    """A foreign key that the new table has and that is proven, whether the old one had it or not.

    `keep_name`: one that is there already keeps its own.
    """

    table: Qualified
    name: Name
    columns: list[Name] = Field(min_length=1)
    references: Qualified
    referred: list[Name] = Field(min_length=1)
    keep_name: bool = False

    @model_validator(mode="after")
    def _pairs(self) -> ForeignKey:
        if len(self.columns) != len(self.referred):
            raise ValueError("columns and referred must be as many")
        return self


class AddedColumn(_Part):
    """A column that the new table gets: for rows that are there `expression` over the old row.

    A rollback does not bring it along. `default`: what a row that is born later gets, where nobody says.
    """

    name: Name
    type: str
    expression: str
    default: str | None = None
    not_null: bool = False


class Table(_Part):
    """A table that is built anew although no value of a key in it changes.

    `primary_key`: columns that the table has. `drop_index`: regular expressions over pg_get_indexdef of
    indexes that serve no constraint; `drop_foreign_key`: over `FOREIGN KEY (a, b) REFERENCES s.t (x, y)`.
    """

    name: Qualified
    primary_key: list[Name] = Field(default_factory=list)
    column: list[AddedColumn] = Field(default_factory=list)
    drop_index: list[str] = Field(default_factory=list)
    drop_foreign_key: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _expressions(self) -> Table:
        _require_regular(self.drop_index, "drop_index")
        _require_regular(self.drop_foreign_key, "drop_foreign_key")
        if len(set(self.primary_key)) != len(self.primary_key):
            raise ValueError("primary_key names a column twice")
        return self


def _require_regular(texts: list[str], where: str) -> None:
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{where}: {text!r} is not a regular expression: {error}") from None


class Header(_Part):
    """The name of the change."""

    name: Annotated[str, StringConstraints(pattern=_REKEY)]


class Spec(_Part):
    """A whole file."""

    rekey: Header
    key: list[Key] = Field(default_factory=list)
    table: list[Table] = Field(default_factory=list)
    reference: list[Reference] = Field(default_factory=list)
    check: list[Check] = Field(default_factory=list)
    json_key: list[JsonKey] = Field(default_factory=list, alias="json")
    index: list[Index] = Field(default_factory=list)
    foreign_key: list[ForeignKey] = Field(default_factory=list)
    _source: str = PrivateAttr("spec")

    @model_validator(mode="after")
    def _something(self) -> Spec:
        if not self.key and not self.table:
            raise ValueError("key: at least one [[key]] or [[table]] is needed")
        names = [table.name for table in self.table]
        if len(set(names)) != len(names):
            raise ValueError("table: each name once")
        return self

    def built(self, table: str) -> Table | None:
        """The [[table]] of this name."""
        return next((each for each in self.table if each.name == table), None)

    @property
    def source(self) -> str:
        """The file, for messages."""
        return self._source

    @property
    def work_schema(self) -> str:
        """Log, maps and journal of a running change."""
        return f"mandate_rekey_{self.rekey.name}"

    @property
    def shadow_schema(self) -> str:
        """The new tables until the cutover."""
        return f"mandate_new_{self.rekey.name}"

    @property
    def retained_schema(self) -> str:
        """The old tables after it."""
        return f"mandate_pre_{self.rekey.name}"


def read(path: Path) -> Spec:
    """Read a spec. Raises UsageError naming the file and the key that is wrong."""
    try:
        return parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def parse(text: str, name: str = "spec") -> Spec:
    """Parse the text of a spec. Raises UsageError."""
    try:
        return from_document(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


def from_document(document: Mapping[str, Any], name: str) -> Spec:
    """A spec from what its TOML says. Raises UsageError naming the key that is wrong."""
    try:
        made = Spec.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        # An entry that is spelled wrong is why another one is missing.
        first = min(found, key=lambda each: each["type"] != "extra_forbidden")
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, first["loc"])))
        raise UsageError(f"{name}: {where}: {_said(first)}", hint=_HINT) from None
    made._source = name
    return made


_HINT = "docs/reference/rekey-spec.md has every entry"


def _said(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such entry"
    if problem["type"] == "missing":
        return "it is missing"
    if problem["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(problem["ctx"]["pattern"], problem["msg"])
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return problem["msg"]
