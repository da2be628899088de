"""The documentation is true: commands run, links lead somewhere, generated pages match the code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scripts import reference
from tests.acceptance import pages
from tests.acceptance.pages import ROOT, Block, Sandbox
from tests.servers import temporary_directory

from mandate import settings

PAGE_TIMEOUT_SECONDS = 420.0


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _runnable(path: Path) -> list[Block]:
    return [block for block in pages.blocks(path.read_text("utf-8")) if block.directive == "test"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    # Not tmp_path: PostgreSQL runs as another user when the tests run as root, and must be able to enter.
    with temporary_directory() as directory:
        sandbox = Sandbox(directory)
        try:
            yield sandbox
        finally:
            sandbox.close()


@pytest.mark.parametrize("path", pages.paths(), ids=_name)
def test_every_shell_block_says_whether_it_is_tested(path: Path) -> None:
    for block in pages.blocks(path.read_text("utf-8")):
        assert block.directive in ("test", "no-test"), f"{_name(path)}:{block.line} says nothing"
        assert block.directive == "test" or block.reason, f"{_name(path)}:{block.line} gives no reason"


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in pages.paths() if _runnable(p)], ids=_name)
def test_commands_do_what_the_page_says(path: Path, sandbox: Sandbox) -> None:
    found = _runnable(path)
    result = sandbox.run(found, timeout_seconds=PAGE_TIMEOUT_SECONDS)
    for index, (block, output) in enumerate(zip(found, result.outputs, strict=False)):
        place = f"{_name(path)}:{block.line}"
        assert index < len(result.statuses), f"{place} did not end in time\n{output}"
        status = result.statuses[index]
        assert status == block.exit_code, f"{place} exited {status}\n{block.text}\n{output}"
        absent = pages.missing(block.expected, output)
        assert absent is None, f"{place} did not print {absent!r}\n{output}"
    assert len(result.statuses) == len(found)


@pytest.mark.parametrize("path", pages.paths(), ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, fragment in pages.links(path.read_text("utf-8")):
        linked = (path.parent / target) if target else path
        assert linked.exists(), f"{_name(path)} links to {target}"
        if fragment and linked.suffix == ".md":
            assert fragment in pages.anchors(linked.read_text("utf-8")), f"{_name(path)}: {target}#{fragment}"


@pytest.mark.parametrize("path", pages.paths(), ids=_name)
def test_pages_load_nothing_from_elsewhere(path: Path) -> None:
    images = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", path.read_text("utf-8"))
    assert not [image for pair in images for image in pair if image.startswith("http")]


def test_generated_pages_match_the_code() -> None:
    for path, text in reference.pages().items():
        assert (ROOT / path).read_text("utf-8") == text, f"{path} is stale: run `make docs`"


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target, _ in pages.links(index)}
    absent = [
        _name(p) for p in (ROOT / "docs").rglob("*.md") if p.name != "README.md" and p.resolve() not in linked
    ]
    assert not absent


def test_example_settings_are_the_defaults() -> None:
    page = (ROOT / "docs/reference/mandate.toml.md").read_text("utf-8")
    example = page.split("```toml\n")[1].split("```")[0].split("# One service")[0]
    rest = page.split("# environment = {}")[1].split("```")[0]
    lines = [re.sub(r"^# (?=\w+ = )", "", line) for line in (example + rest).splitlines()]
    document = tomllib.loads(
        "\n".join(line for line in lines if not line.endswith("...") and not line.endswith('"..."'))
    )
    assert settings.Settings.model_validate(document) == settings.Settings()
    assert set(document) == set(settings.Settings.model_fields)
    assert document["services"]["units"] == ["mandate-*.service"]


# The harness itself: what it would miss, it must not.

PAGE = """
# A page

<!-- test -->
```bash
greeting=hello
```

<!-- test -->
```bash
echo "$greeting   world"; echo two
```
<!-- output -->
```text
hello world
```

<!-- test: exit 3 -->
```bash
(exit 3)
```

<!-- no-test: it would be silly -->
```bash
exit 9
```

```bash
unmarked
```
"""


def test_blocks_carry_their_directives() -> None:
    found = pages.blocks(PAGE)
    assert [block.directive for block in found] == ["test", "test", "test", "no-test", None]
    assert [block.exit_code for block in found] == [0, 0, 3, 0, 0]
    assert found[1].expected == ["hello world"]
    assert found[3].reason == "it would be silly"


def test_blocks_share_one_shell(sandbox: Sandbox) -> None:
    result = sandbox.run(pages.blocks(PAGE)[:3], timeout_seconds=30)
    assert result.statuses == (0, 0, 3)
    assert result.outputs[1] == "hello   world\ntwo\n"


def test_a_failing_line_in_the_middle_is_noticed(sandbox: Sandbox) -> None:
    found = pages.blocks("<!-- test -->\n```bash\nfalse\necho on\n```\n<!-- test -->\n```bash\ntrue\n```\n")
    result = sandbox.run(found, timeout_seconds=30)
    assert result.statuses == (1,)


def test_an_unexpected_success_is_noticed(sandbox: Sandbox) -> None:
    found = pages.blocks("<!-- test: exit 3 -->\n```bash\ntrue\n```\n<!-- test -->\n```bash\ntrue\n```\n")
    assert sandbox.run(found, timeout_seconds=30).statuses == (0,)


def test_a_hanging_block_is_ended(sandbox: Sandbox) -> None:
    found = pages.blocks("<!-- test -->\n```bash\nread -r < <(sleep 1000)\n```\n")
    assert sandbox.run(found, timeout_seconds=0.5).statuses == ()


def test_what_a_page_leaves_running_is_ended(sandbox: Sandbox) -> None:
    found = pages.blocks("<!-- test -->\n```bash\nsetsid sleep 1000 > log 2>&1 & echo $! > pid\n```\n")
    assert sandbox.run(found, timeout_seconds=30).statuses == (0,)
    process = psutil.Process(int((sandbox.work / "pid").read_text()))
    sandbox.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("expected", "output", "absent"),
    [
        (["a", "b"], "a\nx\nb\n", None),
        (["b", "a"], "a\nx\nb\n", "a"),
        (["took ... s"], "took 1.5   s\n", None),
        (["took ... s", "..."], "it took 1 s\n", "took ... s"),
        (["a"], "ab\n", "a"),
    ],
)
def test_expected_output(expected: list[str], output: str, absent: str | None) -> None:
    assert pages.missing(expected, output) == absent
