"""What `import replicator` gives: a short list, imported when it is used."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import replicator
from replicator import errors

ROOT = Path(__file__).parents[2]


def test_the_list_is_sorted_and_has_no_name_twice() -> None:
    assert list(replicator.__all__) == sorted(set(replicator.__all__))
    assert dir(replicator) == replicator.__all__


@pytest.mark.parametrize("name", replicator.__all__)
def test_every_name_in_it_is_there(name: str) -> None:
    assert getattr(replicator, name).__name__ == name


def test_every_error_is_in_it() -> None:
    ours = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert ours <= set(replicator.__all__)


def test_a_name_that_is_not_in_it_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = replicator.Nothing


def test_the_version_is_that_of_pyproject() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert replicator.__version__ == told["project"]["version"]


def test_an_import_loads_nothing_before_it_is_used() -> None:
    program = (
        "import sys, replicator\n"
        "assert not {'redis', 'orjson', 'click', 'rq', 'sqlite3'} & set(sys.modules), sys.modules.keys()\n"
        "replicator.ConfigError\n"
        "assert 'redis' not in sys.modules\n"
        "from replicator import Node\n"
        "assert 'redis' in sys.modules\n"
        "assert not {'click', 'rq', 'starlette', 'uvicorn'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_error_is_a_replicator_error_with_a_message_of_its_own() -> None:
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, Exception):
            assert issubclass(error, errors.ReplicatorError), name
            assert error.__doc__, name
            assert 1 <= error.exit_code <= 6, name


def test_what_every_error_is_over_http_is_on_the_page_of_codes() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", (ROOT / "docs/http.md").read_text(), re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.ReplicatorError):
            assert (error.status, error.code) in told, name
