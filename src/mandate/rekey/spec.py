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

[[reference]]                          # only where the default names do not fit
table = "public.orders"
columns = ["customer"]
new = ["customer_id"]

[[check]]
table = "mandate.domains"
name = "domains_domain_slug_format"
expression = "domain ~ '^[a-z0-9_-]+$'"
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from mandate.errors import UsageError

Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[^\x00]+$")]
Qualified = Annotated[str, StringConstraints(pattern=r"^[^.\x00]+\.[^.\x00]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewColumn(_Part):
    """A column of the new key. Without type and expression it is an existing column, taken as it is."""

    name: Name
    type: str | None = None
    expression: str | None = None
    inverse: str | None = None

    @property
    def existing(self) -> bool:
        """Whether the parent has this column already."""
        return self.expression is None

    @model_validator(mode="after")
    def _type_and_expression(self) -> NewColumn:
        if (self.type is None) != (self.expression is None):
            raise ValueError(f"column {self.name}: give type and expression, or neither")
        return self


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


class Reference(_Part):
    """A child's columns that refer to a key: names of the new columns, in the order of the key.

    With `key` (a parent's table) it is a reference even where no foreign key says so.
    """

    table: Qualified
    columns: list[Name] = Field(min_length=1)
    new: list[Name] = Field(default_factory=list)
    key: Qualified | None = None


class Check(_Part):
    """A CHECK constraint that the new table gets."""

    table: Qualified
    name: Name
    expression: str


class Header(_Part):
    """The name of the change."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,30}$")]


class Spec(_Part):
    """A whole file."""

    rekey: Header
    key: list[Key] = Field(min_length=1)
    reference: list[Reference] = Field(default_factory=list)
    check: list[Check] = Field(default_factory=list)

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
        return Spec.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, first["loc"])))
        raise UsageError(f"{name}: {where}: {first['msg']}") from None
