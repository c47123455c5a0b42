"""What a stack on this machine needs besides `replicator` alone, checked before anything is started.

Otherwise each of its processes would find out by itself, and the user would install one package after the other.
"""

from __future__ import annotations

import importlib.util

from ..errors import ConfigError
from .redis_server import ServerBinary, find_server

__all__ = ["check_installed"]

#: Of the extras `embedded` (which also brings a server) and `web`; what these need themselves comes with them.
MODULES = ("supervisor", "starlette", "uvicorn")


def check_installed() -> ServerBinary:
    """Check that everything is there; the server to run.

    Raises:
        ConfigError: something is not installed: all of it, and the command that brings it; or there is no server.
    """
    missing = [module for module in MODULES if importlib.util.find_spec(module) is None]
    if missing:
        problem = 'not installed; `pip install "replicator[all,embedded]"` brings all that this needs'
        raise ConfigError(setting=", ".join(missing), problem=problem)
    return find_server()
