"""The cookie in which a browser carries the position that it has to find again, so that it reads its own writes.

It is a hint, and no promise that somebody asked for: whatever is wrong with it, the browser gets an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError
from ..format.ids import RecordId
from ..runtime import checks
from .head import POSITION

__all__ = ["Cookie"]

#: A cookie's name, as RFC 6265 has it.
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")

AFTER = ("writes", "all")
SAME_SITE = ("Lax", "Strict", "None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """`after`: `"writes"` sets it when the browser has written, so it reads its own writes; `"all"` at every answer, so
    what it reads does not go back in time either, whichever nodes it asks (shared caches keep no answer that sets a
    cookie). `max_age_s`: for so long a position is remembered. `path`: the part of the site that is ours. `secure`:
    only over TLS. HttpOnly always: scripts get positions in `Replicator-Position`. Raises `ConfigError`.
    """

    name: str = "replicator-position"
    after: str = "writes"
    max_age_s: int = 3600
    path: str = "/"
    same_site: str = "Lax"
    secure: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ConfigError(setting="cookie name", problem=f"{self.name!a} is not the name of a cookie")
        checks.choice("cookie after", self.after, AFTER)
        checks.whole("cookie max_age_s", self.max_age_s, least=1, most=10 * 365 * 86_400)
        checks.choice("cookie same_site", self.same_site, SAME_SITE)
        checks.flag("cookie secure", self.secure)
        if not checks.line("cookie path", self.path).startswith("/") or ";" in self.path:
            raise ConfigError(setting="cookie path", problem=f"{self.path!a} is not a path: it begins with /")

    def read(self, cookies: str) -> RecordId | None:
        """The position in the `Cookie` header of a request; None: there is none, or none that could be one."""
        if self.name not in cookies:
            return None
        for each in cookies.split(";"):
            name, _, value = each.strip().partition("=")
            if name == self.name and POSITION.fullmatch(value):
                return RecordId.parse(value)
        return None

    def set_to(self, position: str) -> str:
        """The value of `Set-Cookie`."""
        return f"{self.name}={position}; Max-Age={self.max_age_s}; {self._rest}"

    @property
    def cleared(self) -> str:
        return f"{self.name}=; Max-Age=0; {self._rest}"

    @property
    def _rest(self) -> str:
        secure = "; Secure" if self.secure or self.same_site == "None" else ""
        return f"Path={self.path}; HttpOnly; SameSite={self.same_site}{secure}"
