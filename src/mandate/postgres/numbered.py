"""Statements with named placeholders as PostgreSQL reads them: with numbered ones.

The driver reads a statement for its placeholders each time it is executed when it is longer than 4 KB, which
takes longer than the statement of a service may. Here each is read once.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PLACEHOLDER = re.compile(rb"%\((\w+)\)s|%%")


@lru_cache(maxsize=1024)
def numbered(statement: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The statement with $1, $2 ... for %(name)s and % for %%, and the names in the order of numbers."""
    names: dict[str, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        if found[1] is None:
            return b"%"
        return b"$%d" % names.setdefault(found[1].decode(), len(names) + 1)

    return _PLACEHOLDER.sub(number, statement), tuple(names)
