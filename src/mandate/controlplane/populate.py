"""Signals found in text: labelled values fill declared context signals that the caller left out.

Only ever to raise a verdict. A decision is evaluated without any of them and with every combination of what
the text says, and the most severe verdict stands; so a text that contradicts itself, or that somebody adds a
line to, cannot make a verdict milder. Pure and deterministic.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mandate.controlplane.evaluator import Evaluation, Evaluator
from mandate.controlplane.model import Decision, Scalar, Signal, most_severe
from mandate.controlplane.numbers import exact

MOST_COMBINATIONS = 64
_MOST_TEXT = 200


@dataclass(frozen=True)
class Populated:
    """A value with where it comes from: `text[start:end]` is what the extractor read it from."""

    signal: str
    value: Scalar
    extractor: str
    start: int
    end: int

    def as_dict(self, text: str) -> dict[str, Any]:
        """Its provenance as it is recorded."""
        return {
            "signal": self.signal,
            "value": self.value,
            "extractor": self.extractor,
            "start": self.start,
            "end": self.end,
            "excerpt": text[self.start : self.end],
        }


@dataclass(frozen=True)
class _Extractor:
    """`pattern` finds a label and captures the value after it; `read` makes the value."""

    signal: str
    name: str
    pattern: re.Pattern[str]
    read: Callable[[str], Scalar]

    def find(self, text: str) -> Iterator[Populated]:
        """The first occurrence of each distinct value, at most one more than can be combined."""
        seen: list[Scalar] = []
        for match in self.pattern.finditer(text):
            value = self.read(match["value"])
            if any(type(value) is type(known) and value == known for known in seen):
                continue
            seen.append(value)
            yield Populated(self.signal, value, self.name, match.start(), match.end("value"))
            if len(seen) >= MOST_COMBINATIONS:
                return


class Populator:
    """The extractors for the signals of one spec."""

    def __init__(self, signals: Sequence[Signal]) -> None:
        self._extractors = tuple(_extractor(signal) for signal in signals if signal.source == "context")

    def find(self, context: Mapping[str, Any], text: str) -> list[tuple[Populated, ...]]:
        """What the text says of each declared signal that the context leaves out."""
        missing = (each for each in self._extractors if context.get(each.signal) is None)
        return [found for each in missing if (found := tuple(each.find(text)))]


def evaluate(
    evaluator: Evaluator, populator: Populator, decision: Decision, text: str | None
) -> tuple[Evaluation, tuple[Populated, ...]]:
    """The verdict with the help of a text, and everything the text said; never milder than without it."""
    without = evaluator.evaluate(decision)
    found = populator.find(decision.context, text) if text else []
    if not found:
        return without, ()
    said = tuple(itertools.chain.from_iterable(found))
    if math.prod(len(values) + 1 for values in found) > MOST_COMBINATIONS:
        strictest = most_severe(evaluator.spec.allowed_verdicts)
        reason = "the text says too many different things about signals that were left out"
        return Evaluation(strictest, scope=without.scope, reasons=(reason,), failed_closed=True), said
    best = without
    for chosen in itertools.product(*((None, *values) for values in found)):
        filled = {each.signal: each.value for each in chosen if each is not None}
        with_text = evaluator.evaluate(replace(decision, context={**decision.context, **filled}))
        if with_text.verdict.severity > best.verdict.severity:
            best = with_text
    return best, said


def _extractor(signal: Signal) -> _Extractor:
    value, read = _FORMS[signal.type](signal)
    label = "[ _-]".join(map(re.escape, re.split(r"[ _-]", signal.name)))
    # The value is only looked at: what follows a label may be a label again.
    pattern = rf"(?<![\w-]){label}[ \t]{{0,3}}(?:[:=]|\bis\b)[ \t]{{0,3}}(?=(?P<value>{value}))"
    return _Extractor(signal.name, f"labelled-{signal.type}", re.compile(pattern, re.IGNORECASE), read)


def _number(literal: str) -> Scalar:
    return exact(literal) if "." in literal else int(literal)


def _numbers(_signal: Signal) -> tuple[str, Callable[[str], Scalar]]:
    # Not the beginning of 1,000 or 1.2.3: who knows what those mean.
    return r"[-+]?\d{1,15}(?:\.\d{1,9})?(?![\w%]|[.,]\d)", _number


def _booleans(_signal: Signal) -> tuple[str, Callable[[str], Scalar]]:
    return r"(?:true|false|yes|no)(?!\w)", lambda literal: literal[0] in "tTyY"


def _strings(_signal: Signal) -> tuple[str, Callable[[str], Scalar]]:
    return rf'"[^"\n]{{1,{_MOST_TEXT}}}"|[^\s"][^\n]{{0,{_MOST_TEXT}}}', lambda literal: literal.strip(
        '" \t\r'
    )


def _choices(signal: Signal) -> tuple[str, Callable[[str], Scalar]]:
    spelled = {_spelling(value).lower(): value for value in signal.values}
    choices = "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))
    meant = [(re.compile(re.escape(text), re.IGNORECASE), value) for text, value in spelled.items()]

    def read(literal: str) -> Scalar:
        found = literal.strip('"')
        if (value := spelled.get(found.lower())) is not None:
            return value
        # What a pattern takes for the same letter need not have the same small one: U+017F for an s.
        return next(value for pattern, value in meant if pattern.fullmatch(found))

    return rf'"?(?:{choices})(?![\w-])', read


def _spelling(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_FORMS: Mapping[str, Callable[[Signal], tuple[str, Callable[[str], Scalar]]]] = {
    "number": _numbers,
    "boolean": _booleans,
    "string": _strings,
    "enum": _choices,
}
