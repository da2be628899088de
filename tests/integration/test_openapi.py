"""The OpenAPI document, taken at its word: whatever it allows or forbids gets an answer that it describes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks
from tests.posting import Point, counted, decision, decision_point, post

EXAMPLES = 10
CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
)
NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def lines(_context: Any, value: Any) -> bytes:
    """A schema describes a line; a batch of two."""
    text = json.dumps(value).encode()
    return text + b"\n" + text


@schemathesis.deserializer(NDJSON)
def first_line(_context: Any, response: Any) -> Any:
    """A line of an answer."""
    return json.loads(response.content.splitlines()[0])


@pytest.fixture(scope="module")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("log"), 8) as found:
        for amount in (1, 740):
            body = decision(context={"amount": amount, "customer_verified": True})
            post(found.service, body)
        yield found


def operations(point: Point) -> Iterator[Any]:
    document = point.service.get("/openapi.json").json
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value
)
def test_every_operation_answers_as_it_is_described(point: Point, mode: GenerationMode) -> None:
    tried = 0
    for operation in operations(point):
        takes = operation.body or operation.query or operation.path_parameters
        if mode is GenerationMode.NEGATIVE and not takes:
            continue  # there is nothing to be done wrong

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            case.call_and_validate(
                base_url=f"http://127.0.0.1:{point.service.port}", checks=list(CHECKS), timeout=60
            )

        answers()
        tried += 1
    assert tried > 20
    counted(point.target)


def test_its_examples_are_taken(point: Point) -> None:
    document = point.service.get("/openapi.json").json
    bodies = {
        path: operation["post"]["requestBody"]["content"]
        for path, operation in document["paths"].items()
        if path.startswith("/api/decisions") and "post" in operation
    }
    assert len(bodies) == 3
    for path, content in bodies.items():
        ((media_type, described),) = content.items()
        (example,) = described["schema"]["examples"]
        where = path.replace("{decision_id}", "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10")
        answer = post(point.service, example, where, {"Content-Type": media_type})
        assert answer.status in (200, 201), answer.body


def test_references_lead_somewhere(point: Point) -> None:
    document = point.service.get("/openapi.json").json

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    found = set(references(document))
    assert found
    for reference in found:
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
