"""Debian's Prometheus, on a loopback port, over a directory of its own; and its API."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from replicator.sandbox.free_ports import free_port
from tests.support.kv import PATIENCE_S, eventually
from tests.support.needs import needs

__all__ = ["Prometheus", "promtool", "running"]


def promtool(*arguments: str) -> str:
    """Run it; what it printed. It fails the test if it found something wrong."""
    path = shutil.which("promtool")
    needs(path is not None, "promtool (prometheus)")
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """One that runs at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        assert found["status"] == "success"
        return found["data"]

    def value(self, query: str) -> dict[str, float]:
        """What a query comes to now, by node (or group, where a sample has no node)."""
        found = self.ask("query", query=query)["result"]
        return {each["metric"].get("node", each["metric"].get("group", "")): float(each["value"][1]) for each in found}

    @property
    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"}


@contextlib.contextmanager
def running(directory: Path, targets: Sequence[str], rules: Path) -> Iterator[Prometheus]:
    """It scrapes these HOST:PORT once a second, and evaluates the rules as often."""
    path = shutil.which("prometheus")
    needs(path is not None, "prometheus")
    directory.mkdir()
    often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {
        "global": often,
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "replicator", "static_configs": [{"targets": list(targets)}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(path), f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        prometheus = Prometheus(f"http://{address}")

        def is_ready() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=1) as answer:
                return answer.status == 200
            return False

        eventually(is_ready, "a Prometheus that answers", patience_s=180)
        yield prometheus
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
