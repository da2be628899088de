"""What `mandate serve` says of itself: /openapi.json, and /docs, which is made of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from starlette.routing import Route
from tests.posting import decision_point
from tests.serving import DECISION, VERDICT, Service

from mandate.controlplane.api.access import OPEN, RULES, template
from mandate.controlplane.api.app import application
from mandate.postgres.connection import Target
from mandate.postgres.pool import Pool


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with decision_point(request, tmp_path_factory.mktemp("log"), 8) as point:
        yield point.service


def test_the_description_names_every_path_and_needs_no_other_host(service: Service) -> None:
    answer = service.get("/openapi.json")
    document = answer.json
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *("/api/decisions", "/api/decisions/{decision_id}", "/api/decisions/{decision_id}/timeline"),
        *("/api/decisions/{decision_id}/verdict", "/api/domains", "/api/health", "/api/verdicts"),
        *(
            "/healthz",
            "/readyz",
            "/metrics",
            "/api/organizations",
            "/api/policy-snapshots",
            "/api/scopes",
            "/api/specs",
        ),
        *("/api/decisions/{decision_id}/outcome", "/api/decisions:batch", "/api/domains/{domain}"),
        *("/api/policy-snapshots/{snapshot_id}", "/api/scopes/{scope_id}", "/api/specs/{spec_id}"),
    }
    listing = document["paths"]["/api/decisions"]["get"]
    names = [parameter["name"] for parameter in listing["parameters"]]
    assert names == re.findall(
        r"\w+", service.get("/api/decisions?x=1").json["detail"].partition("known:")[2]
    )
    schemas = document["components"]["schemas"]
    assert set(schemas["Decision"]["examples"][0]) == set(DECISION)
    assert set(schemas["JudgedDecision"]["properties"]) == {*DECISION, "verdict"}
    assert set(schemas["VerdictDocument"]["examples"][0]) == set(VERDICT)
    assert "http://" not in json.dumps(document)
    assert "https://" not in json.dumps(document)


def test_no_route_is_left_out_of_it() -> None:
    """What tries every operation of the document with every wrong token tries all that there is."""
    nowhere = Target({"host": "localhost"}, "test")
    reading, writing = (
        Pool(lambda: nowhere, application_name="test", size=1, writing=each) for each in (False, True)
    )
    app = application(reading, writing)
    # Each part below /api and /api/v1, the probes, and what describes them.
    *parts, probes = app.state.routers
    assert [route.path for route in app.routes if isinstance(route, Route)] == ["/openapi.json", "/docs"]
    assert len(app.routes) == 2 + 2 * len(parts) + 1
    routes = [route for part in (*parts, probes) for route in part.routes]
    told = {
        (method.upper(), template(path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert {(method, route.path) for route in routes for method in route.methods} == told
    assert {(method, path) for method, path in told if path not in OPEN} == RULES.keys()


class _Page(HTMLParser):
    """What a browser would look at: ids, links, text, and whatever would be loaded from somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" else []
        if tag in ("script", "link", "img", "iframe", "form") or {"src", "onclick", "style"} & set(found):
            self.loaded.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_description_is_a_page_too_that_loads_nothing(service: Service) -> None:
    answer = service.get("/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = answer.body.decode()
    page, document = _Page(text), service.get("/openapi.json").json
    assert page.loaded == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link.partition("#")[2] for link in page.links if "#" in link} <= set(page.ids)
    assert [link for link in page.links if not link.startswith("#")] == ["/openapi.json"]
    for path, operations in document["paths"].items():
        for method, told in operations.items():
            anchor = re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-")
            (section,) = re.findall(rf'<section id="{anchor}">(.*?)</section>', text, re.DOTALL)
            shown = _Page(section).text
            for word in (path, *(one["name"] for one in told.get("parameters", ())), *told["responses"]):
                assert word in shown, (path, method, word)
    for name in document["components"]["schemas"]:
        assert f"doc-{name}" in page.ids
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert service.get("/docs").body == answer.body
    assert service.get("/docs", method="HEAD").body == b""
    assert service.get("/docs", headers={"Host": "evil.example"}).problem == "host-not-allowed"
