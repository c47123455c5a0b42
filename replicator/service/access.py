"""Who may reach a node over HTTP, as its options say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Access"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """`tokens`: the file of tokens; None: whoever reaches the port may do everything. `insecure`: also beyond loopback.

    `hosts`: names under which it is asked, besides its own. `cert`, `key`: for HTTPS, in PEM.
    """

    tokens: Path | None = None
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    cert: Path | None = None
    key: Path | None = None
