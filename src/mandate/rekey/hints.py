"""What to do about an object that the engine does not carry over, by what the plan says of it. Pure."""

from __future__ import annotations

import re

_AGAIN = "drop it before the change and make it again afterwards; keep its definition"

# Of a problem's text, the first that is found -> what to do.
_HINTS = (
    (
        r" is a partition$| is a partitioned table$",
        "the engine changes ordinary tables; detach or copy it first",
    ),
    (r" is part of an inheritance tree$", "ALTER TABLE ... NO INHERIT takes it out of the tree"),
    (r" is a typed table ", "ALTER TABLE ... NOT OF makes it an ordinary one; the columns stay"),
    (r" belongs to extension ", "its extension has to change it: look for an update of that extension"),
    (r"^rule ", f"a trigger can do what a rule does; or {_AGAIN}"),
    (
        r" uses (function|procedure) .*, which uses the row type of ",
        f"that function is dropped and made again at the swap, and this with it: {_AGAIN}",
    ),
    (
        r" uses the row type of ",
        "the row type stays with the old table: take a type of your own (CREATE TYPE ... AS), or the columns;"
        f" or {_AGAIN}",
    ),
    (
        r"^policy .* which goes away$",
        "write it over a column that stays, or drop it before the change and make it over the new columns in"
        " the moment of the swap",
    ),
    (
        r" uses column .* which goes away$",
        f"make it over columns that stay; or say in the spec what replaces the column; or {_AGAIN}, over the"
        " new columns",
    ),
    (
        r" mentions column .* which goes away$",
        "its body is a text that nobody rewrites: change it so that it works before and after, or --accept"
        " this line and change it at the swap",
    ),
    (r"^trigger .* is FROM ", f"{_AGAIN}"),
    (
        r"^publication .* publishes all tables",
        "subscribers would get the rows of the new tables as they are built: make it FOR TABLES IN SCHEMA,"
        " which publishes the new tables from the swap on",
    ),
    (r"^subscription ", "rows arrive from elsewhere: change the keys at the publisher and here, apart"),
    (
        r" has a security label of ",
        "labels are not carried: SECURITY LABEL ... IS NULL, and label the new table",
    ),
    (r"^identity column ", "ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY, or keep the type a whole number"),
    (r"^the default of .* is an old key: ", "[[reference]] drop_default = true lets it go"),
    (r" over a PERIOD is not carried$", f"{_AGAIN}"),
    (
        r"^view |^materialized view |^function ",
        f"what it uses has another type then: cast it there; or {_AGAIN}",
    ),
)


def hint(problem: str) -> str | None:
    """What to do about a problem of the plan, in one sentence; None when its text says it."""
    return next((text for pattern, text in _HINTS if re.search(pattern, problem)), None)
