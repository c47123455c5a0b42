"""The Redis users that `replicator acl` prints, on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from click.testing import CliRunner, Result

from replicator.cli import cli
from replicator.sandbox.redis_server import RedisServer, ServerBinary

PASSWORD = "s3cret/of:a@user"  # what has to be encoded in a URL


def rules_for(binary: ServerBinary) -> str:
    """The `--server` that is right for this one."""
    if binary.flavour == "valkey":
        return "valkey"
    major, minor, _ = binary.version
    return "6.2" if major == 6 else "8" if major >= 8 else "7.2" if minor >= 2 else "7"


class Users:
    """Makes users of a group on a server, as an operator would: by what the command prints."""

    def __init__(self, server: RedisServer, directory: Path, group: str = "g") -> None:
        self.server = server
        self.group = group
        self.admin = redis.Redis.from_url(server.url)
        self.password_file = directory / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.password_file.chmod(0o600)

    def add(self, *roles: str) -> None:
        for line in self.printed(*roles):
            self.admin.execute_command(*line.split())

    def printed(self, *roles: str, **options: str) -> list[str]:
        """The lines of `replicator acl`; `options`: further ones."""
        server = rules_for(self.server.binary)
        further = [word for name, value in options.items() for word in (f"--{name}", value)]
        given = ["--server", server, "--password-file", str(self.password_file), *further]
        result = CliRunner().invoke(cli, ["--redis", self.server.url, "--group", self.group, "acl", *given, *roles])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    def granted(self, role: str) -> set[str]:
        (line,) = self.printed(role)
        return {word.removeprefix("+") for word in line.split() if word.startswith("+")}

    def url(self, role: str) -> str:
        return f"{self.server.url}?username={self.group}-{role}&password_file={self.password_file}"

    def client(self, role: str) -> redis.Redis:
        """A plain client, for what no code of ours would send."""
        return redis.Redis.from_url(self.server.url, username=f"{self.group}-{role}", password=PASSWORD)

    def run(self, role: str, *command: str) -> Result:
        """A command of `replicator`, as this user."""
        return CliRunner().invoke(cli, ["--redis", self.url(role), "--group", self.group, *command])

    def refusals(self) -> set[tuple[str, str]]:
        """What was refused since the last time, as user and object (a command or a key)."""
        found: list[dict[str, Any]] = self.admin.acl_log()
        self.admin.acl_log_reset()
        return {(_text(each["username"]), _text(each["object"])) for each in found}

    def close(self) -> None:
        users = [user for user in self.admin.acl_users() if user != "default"]
        for user in users:
            self.admin.acl_deluser(user)
        self.admin.close()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
