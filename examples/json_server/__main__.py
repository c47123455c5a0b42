"""python -m examples.json_server"""

from __future__ import annotations

from pathlib import Path

from examples.installing import from_npm
from examples.two_hosts import Program, main


def install() -> Path:
    return from_npm("json-server", "0.17.4") / "json-server"


def prepare(directory: Path, port: int) -> None:
    """It makes its own file, where there is none."""


if __name__ == "__main__":
    main(
        Program(
            name="json-server",
            path="/db",
            install=install,
            prepare=prepare,
            write="curl -X POST $url/posts -H 'content-type: application/json' -d '{\"title\": \"on two hosts\"}'",
            read="curl $url/posts",
        )
    )
