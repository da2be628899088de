"""A mandate.yaml to take apart, and the places of what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest

from mandate.controlplane.governance import checking, documents, source
from mandate.controlplane.governance.source import InvalidDocument

WHOLE = """\
mandate: 1
organization:
  name: Acme
  description: An example
domains:
  - domain: billing
    description: Payments and refunds
    scopes:
      - scope_id: billing.prod.payments
        environment: prod
        service: payments
        owning_team: Payments
      - scope_id: billing.default
    specs:
      - spec_id: billing.refund
        intent: issue_refund
        stage: pre_commit
        allowed_verdicts: [ALLOW, PAUSE, BLOCK, OBSERVE]
        enforcement:
          default_verdict: ALLOW
        signals:
          - name: amount
            type: number
            required: true
          - name: customer_verified
            type: boolean
            required: true
          - name: channel
            type: enum
            values: [web, phone, no]
          - name: environment
            type: string
            source: scope
    policies:
      - id: pause-large
        name: A person looks at large refunds
        spec_id: billing.refund
        scope_id: billing.prod.payments
        conditions:
          - field: amount
            operator: ">"
            value: 500
        verdict: PAUSE
      - id: block-unverified
        spec_id: billing.refund
        scope_id: billing.default
        conditions:
          - {field: customer_verified, operator: "==", value: false}
          - {field: channel, operator: in, value: [web, phone]}
        verdict: BLOCK
  - domain: logistics
"""


def defects(text: str | bytes, *, candidate: bool = False) -> list[str]:
    """`line:column message` of everything that is wrong with a file by itself."""
    data = text.encode() if isinstance(text, str) else text
    try:
        read = source.read_yaml(data, "m.yaml")
    except InvalidDocument as error:
        return _short(error.fields["defects"])
    document = documents.parse_candidate(read) if candidate else documents.parse(read)
    found = list(document.defects)
    for organization in document.organizations:
        for entry in organization.domains:
            found += checking.check_entry(entry)
    return _short(read.located(found))


def changed(old: str, new: str, text: str = WHOLE) -> str:
    """The file with one part replaced, which must be there once."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def only(found: list[str], place: str, words: str) -> None:
    """Assert that there is one defect, at `place`, with `words` in it."""
    assert len(found) == 1, found
    if not found[0].startswith(f"{place} ") or words not in found[0]:
        pytest.fail(f"{found[0]!r} is not at {place} with {words!r}")


def _short(located: list[dict[str, Any]]) -> list[str]:
    return [f"{defect['line']}:{defect['column']} {defect['message']}" for defect in located]
