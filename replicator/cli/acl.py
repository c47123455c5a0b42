"""`replicator acl`: the Redis users of a group, each with the rights of its role and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..log.acl import ROLES, SERVERS, user_for
from ..log.password_file import password_of
from .context import Settings
from .progress import say_line

__all__ = ["acl"]

#: A name that `ACL SETUSER` and a file of users read as one word.
_USER = re.compile("[A-Za-z0-9._@-]{1,64}")


def _user(_: click.Context, __: click.Parameter, given: str | None) -> str:
    if given is not None and not _USER.fullmatch(given):
        raise click.BadParameter("a user is 1 to 64 of A-Z a-z 0-9 . _ @ -")
    return given or ""


@click.command
@click.argument("roles", metavar="ROLE...", nargs=-1, required=True, type=click.Choice(ROLES))
@click.option(
    "--server",
    type=click.Choice(SERVERS),
    default="7",
    show_default=True,
    help="The version of Redis, or valkey: a later one takes the rules of an earlier one, too.",
)
@click.option("--user", callback=_user, help="The name of the user, with one ROLE.  [default: GROUP-ROLE]")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="A file with the password on one line: its hash is printed.  [default: no password, and no way in]",
)
@click.option("--aclfile", is_flag=True, help="As lines of the file that Redis' `aclfile` names.")
@click.pass_obj
def acl(settings: Settings, /, roles: tuple[str, ...], **options: Any) -> None:
    """Print Redis users with the rights of a role in the group, and no others.

    node: a node that may lead. standby: one that follows, and cannot write the log. operator: promote, pause, recover
    and the like. monitor: status, doctor, log, history; it only reads. jobs: the job worker, and who asks
    it. jobs-operator: a job worker that does switchovers, too. sentinel: a user of the sentinels.

    \b
    replicator acl monitor --password-file monitor.password | redis-cli --user admin --askpass
    """
    if options["user"] and len(set(roles)) > 1:
        raise ConfigError(setting="user", problem="is the name of one user: give one ROLE with it")
    path = options["password_file"]
    password = password_of("password-file", path) if path else ""
    for role in dict.fromkeys(roles):
        user = user_for(
            role,
            settings.group,
            server=options["server"],
            url=settings.redis,
            name=options["user"],
            password=password,
        )
        click.echo(user.as_line() if options["aclfile"] else user.as_command())
        if not password:
            say_line(f"{user.name} has no password, and cannot log in: --password-file adds one")
