"""A generated history: organizations, specs and policies, and decisions whose verdicts they really gave.

`plan` is pure; `load` puts a plan into a database of version 7 or 8.
"""

from __future__ import annotations

from mandate.controlplane.seed.history import History, plan
from mandate.controlplane.seed.load import OtherRows, Summary, load
from mandate.controlplane.seed.parameters import Parameters, parse_until

__all__ = ["History", "OtherRows", "Parameters", "Summary", "load", "parse_until", "plan"]
