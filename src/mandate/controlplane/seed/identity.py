"""Readable scope ids, exactly as migration 008 derives them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from mandate.controlplane.model import Scope

_OUTSIDE = re.compile(r"[^a-z0-9_-]")
_ASCII_LOWER = str.maketrans({chr(c): chr(c + 32) for c in range(ord("A"), ord("Z") + 1)})


def slug(text: str) -> str:
    """One segment: ASCII letters lower-cased, anything outside [a-z0-9_-] turned into `-`."""
    return _OUTSIDE.sub("-", text.translate(_ASCII_LOWER))


def path(domain: str, scope: Scope) -> str:
    """`<domain>.<environment>.<service>.<agent>[.<system>][.<tenant>]`, or `<domain>.default`."""
    segments = [slug(selector) for selector in scope.selectors if selector]
    return ".".join((domain, *(segments or ("default",))))


def readable(scopes: Mapping[str, tuple[str, Scope]]) -> dict[str, str]:
    """UUID -> readable id, for UUID -> (domain name, scope).

    Scopes that arrive at the same text each get `-` and 8 hex digits of their UUID, or all 32 where that
    still meets another scope's text.
    """
    paths = {key: path(domain, scope) for key, (domain, scope) in scopes.items()}
    shared = {text for text, count in Counter(paths.values()).items() if count > 1}
    short = {
        key: f"{text}-{key.replace('-', '')[:8]}" if text in shared else text for key, text in paths.items()
    }
    taken = Counter(short.values())
    return {
        key: f"{paths[key]}-{key.replace('-', '')}" if paths[key] in shared and taken[text] > 1 else text
        for key, text in short.items()
    }
