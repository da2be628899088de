"""The form of a token: `mdt_<id>_<secret>`. The id is no secret and stands in logs.

Only a hash of the whole is kept. The secret has 256 random bits, so a plain SHA-256 is enough: there is
nothing to guess and nothing to slow down.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

ID_PATTERN = re.compile(r"[0-9a-f]{12}")
_TOKEN = re.compile(r"mdt_(?P<id>[0-9a-f]{12})_[a-z2-7]{52}", re.ASCII)
LENGTH = len("mdt__") + 12 + 52


@dataclass(frozen=True)
class Issued:
    """A token as it is made: shown once, never again."""

    token_id: str
    text: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return digest(self.text)


def issue() -> Issued:
    """A new token."""
    token_id = secrets.token_hex(6)
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return Issued(token_id, f"mdt_{token_id}_{secret}")


def token_id(text: str) -> str | None:
    """The id in a token; None for what has not the form of one."""
    found = _TOKEN.fullmatch(text)
    return found["id"] if found else None


def digest(text: str) -> bytes:
    """SHA-256 of a whole token."""
    return hashlib.sha256(text.encode()).digest()


def matches(kept: bytes | None, presented: bytes) -> bool:
    """Whether a digest is the one that is kept. Takes as long whatever differs, and for no token at all."""
    return hmac.compare_digest(kept or bytes(32), presented) and kept is not None
