"""The format of mandate.yaml and of the bodies that the API's administrative POSTs take.

These models are the shape only (and its JSON Schema); what is meant by it is checked in `checking`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from mandate.controlplane.model import Operator, SignalSource, SignalType

StageName = Literal["proposed", "pre_commit", "executed"]
VerdictName = Literal["ALLOW", "PAUSE", "BLOCK", "OBSERVE"]

UUID_PATTERN = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
Uuid = Annotated[
    str,
    Field(pattern=UUID_PATTERN, examples=["00000000-0000-0000-0000-000000000001"]),
    AfterValidator(str.lower),
]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=100, examples=["finance"])]
ScopeId = Annotated[str, Field(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)+$", max_length=300)]
Key = Annotated[str, Field(pattern=r"^\S+$", max_length=200)]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number that can be compared")
    if not isinstance(value, str | bool | int | float):
        raise ValueError("a text, a number, true or false is needed")
    return value


def _operand(value: Any) -> Any:
    return [_scalar(item) for item in value] if isinstance(value, list) else _scalar(value)


_SCALAR = {"type": ["string", "number", "boolean"]}
Scalar = Annotated[Any, AfterValidator(_scalar), WithJsonSchema(_SCALAR)]
Operand = Annotated[
    Any,
    AfterValidator(_operand),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}),
]


class Part(BaseModel):
    """Strict: no key that is not meant, no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Organization(Part):
    """Who decides. Found by `organization_id` or by `name`, which is unique; one that is new needs a name."""

    organization_id: Uuid | None = Field(None, description="made when it is left out")
    name: Name | None = Field(None, examples=["Acme"])
    description: Text | None = None
    metadata: dict[str, Any] | None = None


class Domain(Part):
    """A part of an organization that owns scopes, specs and policies."""

    domain: Slug
    description: Text | None = None
    metadata: dict[str, Any] | None = None


class Scope(Part):
    """What policies are bound to. A selector that is left out matches anything."""

    scope_id: ScopeId = Field(
        description="begins with its own domain and a dot", examples=["finance.prod.payments"]
    )
    environment: Name | None = None
    service: Name | None = None
    agent: Name | None = None
    system: Name | None = None
    tenant: Name | None = None
    owning_team: Name | None = None
    owner_contact: Name | None = None
    description: Text | None = None


class Signal(Part):
    """A declared input. Policies see declared signals only, each only from its source."""

    name: Key
    type: SignalType
    source: SignalSource = "context"
    required: bool = False
    values: list[Scalar] | None = Field(None, description="those of an enum")
    description: Text | None = None


class Enforcement(Part):
    """What happens where no policy matches."""

    default_verdict: VerdictName | None = None


class Spec(Part):
    """The contract of a kind of decision: an intent at a stage, its signals and the verdicts it may get."""

    spec_id: Key = Field(examples=["finance.refund"])
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="the next one when it is left out")
    intent: Name = Field(examples=["issue_refund"])
    stage: StageName
    allowed_verdicts: list[VerdictName] = Field(min_length=1)
    signals: list[Signal] = Field(default_factory=list)
    enforcement: Enforcement = Enforcement()
    status: Literal["active", "draft", "deprecated"] = Field(
        "active", description="deprecated retires one; that needs version 9 of the schema"
    )


class Condition(Part):
    """`field operator value`; `in` takes a list. A signal that is missing makes it false, with != too."""

    field: Key
    operator: Operator
    value: Operand


class Policy(Part):
    """A rule: it matches where all conditions hold, and always where there are none."""

    id: Key
    name: Name | None = None
    description: Text | None = None
    spec_id: Key
    scope_id: Key
    conditions: list[Condition] = Field(default_factory=list)
    verdict: VerdictName


class DomainBlock(Domain):
    """A domain with what belongs to it."""

    scopes: list[Scope] = Field(default_factory=list)
    specs: list[Spec] = Field(default_factory=list)
    policies: list[Policy] | None = Field(
        None, description="all policies of the domain: its next snapshot. Left out: the snapshot stays"
    )


class MandateFile(Part):
    """One document of mandate.yaml: an organization and its domains."""

    model_config = ConfigDict(title="mandate.yaml")

    mandate: Literal[1] = Field(description="version of this format")
    organization: Organization
    domains: list[DomainBlock] = Field(default_factory=list)


class PostedDomain(Domain):
    """A domain of an organization that there is."""

    organization_id: Uuid


class PostedScope(Scope):
    """A scope of a domain that there is."""

    organization_id: Uuid
    domain: Slug


class PostedSpec(Spec):
    """A spec of a domain that there is.

    On a version 9 database one that is active supersedes the one before; a recorded `version` with another
    `status` is activated again, or retired. A version 8 database refuses a second active one.
    """

    organization_id: Uuid
    domain: Slug


class PostedSnapshot(Part):
    """All policies of a domain: its next snapshot."""

    organization_id: Uuid
    domain: Slug
    policies: list[Policy]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one document of mandate.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **MandateFile.model_json_schema()}
