"""mandate.yaml: what can be read, what is refused, and where it says that the trouble is."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.governing import WHOLE, as_yaml, changed, defects, only

from mandate.controlplane.governance import check_policies, read_policies, source
from mandate.controlplane.governance.checking import Surroundings
from mandate.controlplane.governance.source import MAX_BYTES, InvalidDocument
from mandate.errors import UsageError

HEAD = "mandate: 1\norganization:\n  name: Acme\n"


def test_a_whole_file_has_no_defect() -> None:
    assert defects(WHOLE) == []
    assert defects(HEAD) == []
    assert defects(WHOLE + "---\n" + HEAD.replace("Acme", "Other") + "---\n") == []


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("mandate: 1", "mandate: 2", "1:10", "version 1"),
        ("mandate: 1", "mandate: true", "1:10", "version 1"),
        ("mandate: 1\n", "", "1:1", "`mandate: 1`"),
        ("  name: Acme", "  nam: Acme", "3:3", "no key 'nam' here: name?"),
        ("  name: Acme", "  name: 12", "3:9", "a text is needed, not 12: quote it"),
        ("  name: Acme", '  name: " Acme"', "3:9", "space at an end"),
        ("  - domain: billing", "  - domain: Finance & Billing", "6:13", "a to z"),
        ("- scope_id: billing.default\n", "- scope_id: logistics.default\n", "13:19", "billing."),
        ("- scope_id: billing.default\n", "- scope_id: billing.prod.payments\n", "13:9", "here twice"),
        ("        intent: issue_refund\n", "", "15:9", "`intent` is missing"),
        ("stage: pre_commit", "stage: before", "17:16", "'pre_commit'"),
        ("[ALLOW, PAUSE, BLOCK, OBSERVE]", "[ALLOW, PAUSE, block]", "18:42", "'BLOCK'"),
        ("[ALLOW, PAUSE, BLOCK, OBSERVE]", "[ALLOW, PAUSE, ALLOW]", "18:27", "ALLOW is here twice"),
        ("default_verdict: ALLOW", "default_verdikt: ALLOW", "20:11", "default_verdict?"),
        ("[ALLOW, PAUSE, BLOCK, OBSERVE]", "[PAUSE, BLOCK]", "20:28", "not among allowed_verdicts"),
        ("required: true\n          - name: ch", "required: yes\n          - name: ch", "27:23", "true or"),
        ("name: customer_verified\n", "name: amount\n", "25:13", "signal amount is here twice"),
        ("            values: [web, phone, no]\n", "", "28:13", "an enum needs `values`"),
        ("[web, phone, no]", "[web, phone, web]", "30:34", "web is here twice"),
        ("            source: scope", "            source: timestamp", "31:19", "it has no environment"),
        ("operator: \">\"", "operator: \"=>\"", "41:23", "'>='"),
        (": PAUSE\n", ": PAUSE\n        verdict: BLOCK\n", "44:9", "first in line 43"),
        ("id: block-unverified", "id: pause-large", "44:9", "policy pause-large is here twice"),
        ("value: 500", "value: 0500", "42:20", "begins with a zero"),
        ("value: 500", "value: .inf", "42:20", "no number"),
        ("value: 500", "value: 1e999", "42:20", "more digits"),
        ("value: 500", "value: 0.12345678901234567890123", "42:20", "more digits"),
        ("value: 500", "value: {a: 1}", "42:20", "a text, a number, true or false"),
        ("value: 500", "value: &x 500", "42:20", "anchors"),
        ("value: 500", "value: *x", "42:20", "aliases"),
        ("value: 500", "value: !!python/object/apply:os.system [id]", "42:20", "tags"),
        ("value: 500", "value: [1, 2", "43:16", "not YAML"),
        ("value: 500", 'value: "a\\0b"', "42:20", "U+0000"),
        ("id: pause-large", 'id: "\\x9b31m"', "35:13", "U+009B"),
        ("name: A person", 'name: "\\u202e"\n#', "36:15", "U+202E"),
        ("  - domain: logistics", "  - domain: logistics\n    policies:", "52:5", "write [] for none"),
        ("value: 500", "value: a\x07b", "42:21", "character"),
        ("  description: An example", "  1: An example", "4:3", "a key must be a text"),
        ("  description: An example", "  [a]: An example", "4:3", "a key must be a text"),
        ("  description: An example", "  <<: {description: x}", "4:3", "merge keys"),
        ("  description: An example", "\tdescription: x", "4:1", "not YAML"),
        ("domains:", "domains: {}\nx:", "5:10", "is a list"),
        ("  - domain: logistics", "  - logistics", "51:5", "a mapping is needed"),
    ],
)  # fmt: skip
def test_a_defect_says_where_it_is(old: str, new: str, place: str, words: str) -> None:
    found = defects(changed(old, new))
    if "more" in new or "x:" in new:
        found = found[:1]
    only([defect for defect in found if words in defect] or found, place, words)


def test_all_defects_are_told_together_in_the_order_of_the_file() -> None:
    text = changed("name: Acme", "name: 1")
    text = changed("stage: pre_commit", "stage: before", text)
    text = changed("- scope_id: billing.default\n", "- scope_id: default\n", text)
    text = changed("value: 500", "value: .nan", text)
    text = changed("[web, phone, no]", "[web, web]", text)
    found = defects(text)
    assert [defect.split(" ")[0] for defect in found] == ["3:9", "13:19", "17:16", "42:20"]
    # The signals of a spec whose stage is wrong are not looked at.
    assert len(defects(changed("stage: before", "stage: proposed", text))) == 4


def test_a_value_that_could_not_be_read_is_not_blamed_twice() -> None:
    only(defects(changed("name: Acme", "name: *acme")), "3:9", "aliases")
    only(defects(changed("value: 500", "value: 1e999")), "42:20", "more digits")
    only(defects(changed("value: 500", "value: 0500")), "42:20", "begins with a zero")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "nothing in it"),
        ("# only a comment\n", "1:1", "nothing in it"),
        ("---\n---\n", "1:1", "nothing in it"),
        ("hello", "1:1", "begins with"),
        ("- 1\n", "1:1", "begins with"),
        (b"mandate: 1\norganization: \xff\n", "2:15", "not UTF-8"),
        (b"\xff\xfem\x00", "1:1", "not UTF-8"),
        ("a: \x00", "1:4", "does not allow"),
        ("[" * 100_000, "1:33", "nested deeper"),
        ("a: " + "[" * 40 + "]" * 40, "1:35", "nested deeper"),
        ("x: " + "{a: " * 5000, "1:125", "nested deeper"),
        ("- a\n" * 250_000, "200000:3", "more than 200000 values"),
        ("a" * (MAX_BYTES + 1), "1:1", "more than 4 MiB"),
        ("a: b: c", "1:5", "not YAML"),
        ("%YAML 3.0\n---\na: 1\n", "1:1", "not YAML"),
        ('a: "unfinished', "1:15", "not YAML"),
    ],
)
def test_hostile_and_broken_files_stop_at_once(text: str | bytes, place: str, words: str) -> None:
    only(defects(text)[:1], place, words)


def test_a_billion_laughs_are_refused_unread() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    names = "abcdefghij"
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    found = defects("\n".join(lines))
    assert "1:4 anchors (&) are not used here" in found
    assert len(found) < 110


def test_yaml_1_1_surprises_are_texts() -> None:
    read = source.read_yaml(
        b"[no, on, Yes, 12:30, 0x1F, 0o17, 1_000, 2026-01-31, 1.5, -3, 1e3, null, ~, true]", "x"
    )
    expected = [
        "no",
        "on",
        "Yes",
        "12:30",
        "0x1F",
        "0o17",
        "1_000",
        "2026-01-31",
        1.5,
        -3,
        1000.0,
        None,
        None,
        True,
    ]
    assert read.documents == (expected,)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_json_reads_the_same_as_yaml_and_as_json(value: Any) -> None:
    text = as_yaml([value]).encode()
    assert source.read_yaml(text, "x").documents == source.read_json(text).documents == (value,)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_no_bytes_bring_anything_but_defects(data: bytes) -> None:
    for candidate in (False, True):
        defects(data, candidate=candidate)
    with suppress(InvalidDocument):
        source.read_json(data)


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        (b"", "", "not JSON"),
        (b"\xff", "", "not JSON"),
        (b"\xef\xbb\xbf{}", "", "byte order mark"),
        (b'{"a": NaN}', "", "not JSON"),
        (b'{"a": 1e999}', "/a", "no number"),
        (b'{"a": "\\u0000"}', "/a", "U+0000"),
        (b'{"a": "\\ud800"}', "/a", "U+D800"),
        (b'{"a": "\\u001b[2J"}', "/a", "U+001B"),
        (b'{"a": {"b": 1, "b": 2}}', "/a/b", "twice"),
        (b"[" * 100_000, "", "not JSON"),
        (b"[" * 50 + b"]" * 50, "", "nested deeper"),
        (b"1" * 5000, "", "no number"),
    ],
)
def test_bodies_point_at_the_field(body: bytes, pointer: str, words: str) -> None:
    try:
        read = source.read_json(body)
        found = read.located(read.defects)
    except InvalidDocument as error:
        found = error.fields["defects"]
    assert [(defect["pointer"], defect["line"]) for defect in found] == [(pointer, None)]
    assert words in found[0]["message"]


def test_policies_for_a_replay(tmp_path: Path) -> None:
    whole, bare, nobody = (tmp_path / name for name in ("whole.yaml", "bare.yaml", "nobody.yaml"))
    whole.write_text(WHOLE)
    policies = WHOLE.split("    policies:\n")[1].split("  - domain: logistics")[0]
    bare.write_text("\n".join(line[6:] for line in policies.splitlines()))
    nobody.write_text("mandate: 1\ndomains:\n  - domain: billing\n    policies:\n" + policies)
    found = [read_policies(path) for path in (whole, bare, nobody)]
    assert [len(each) for each in found] == [1, 1, 1]
    assert [each[0].domain for each in found] == ["billing", "", "billing"]
    assert [each[0].organization for each in found] == ["Acme", None, None]
    assert found[0][0].policies == found[1][0].policies == found[2][0].policies
    assert [policy.policy_id for policy in found[0][0].policies] == ["pause-large", "block-unverified"]
    with pytest.raises(InvalidDocument) as refused:
        check_policies(found[1][0], Surroundings("billing", {}, {"billing.default"}))
    places = [(defect["line"], defect["pointer"]) for defect in refused.value.fields["defects"]]
    assert places == [(3, "/0/spec_id"), (4, "/0/scope_id"), (11, "/1/spec_id")]


def test_policies_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_policies(tmp_path / "none.yaml")
    (tmp_path / "m.yaml").write_text(HEAD)
    with pytest.raises(InvalidDocument, match="no policies"):
        read_policies(tmp_path / "m.yaml")
