"""python -m examples.isso"""

from __future__ import annotations

from pathlib import Path

from examples.installing import from_pypi
from examples.two_hosts import Program, main

#: A port has to be in it, so each host has one of its own. `host` is the site whose comments they are: there is none.
SETTINGS = """\
[general]
dbpath = {directory}/comments.db
host = http://127.0.0.1:{port}/
[server]
listen = http://127.0.0.1:{port}/
[guard]
enabled = false
"""


def install() -> Path:
    return from_pypi("isso", "0.14.0") / "isso"


def prepare(directory: Path, port: int) -> None:
    (directory / "isso.cfg").write_text(SETTINGS.format(directory=directory, port=port))


if __name__ == "__main__":
    main(
        Program(
            name="isso",
            path="/info",
            install=install,
            prepare=prepare,
            write="curl -X POST '$url/new?uri=/hello' -H 'content-type: application/json' "
            '-d \'{"title": "Hello", "author": "me", "text": "on two hosts"}\'',
            read="curl '$url/?uri=/hello'",
        )
    )
