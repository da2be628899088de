"""Reading a body: what is said twice is refused, wherever and however it is spelled, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mandate.controlplane.intake import MalformedBody, read_object

TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(['a": ', '":', " :", '\\":', "a\n:", "\ufeff", "1e5 }"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=4)
SEPARATORS = st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : "), (",\n", "\t:\n")])


@given(document=DOCUMENTS, separators=SEPARATORS, ascii_only=st.booleans())
def test_whatever_is_said_once_is_read(
    document: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(document, separators=separators, ensure_ascii=ascii_only)
    assert read_object(text.encode())[1] == document


@given(
    document=DOCUMENTS, name=TEXTS, separators=SEPARATORS, ascii_only=st.booleans(), depth=st.integers(0, 3)
)
def test_what_is_said_twice_is_not(
    document: dict[str, Any], name: str, separators: tuple[str, str], ascii_only: bool, depth: int
) -> None:
    inside = json.dumps({**document, name: 1}, separators=separators)
    key = json.dumps(name, ensure_ascii=ascii_only)
    text = f"{inside[:-1]},{key} \r\n:2}}"
    for _ in range(depth):
        text = f'{{"in":[{text}]}}'
    with pytest.raises(MalformedBody, match="twice in one object"):
        read_object(text.encode())


@pytest.mark.parametrize("spelled", ['"amount"', '"\\u0061mount"', '"amount" \n'])
def test_a_key_has_many_spellings(spelled: str) -> None:
    with pytest.raises(MalformedBody, match="'amount' is twice in one object"):
        read_object(f'{{"context": {{"amount":740,{spelled}:1}}}}'.encode())
