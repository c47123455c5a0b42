"""What a program has to know of sealed bodies that has no key, or no `cryptography`. `sealing.py` seals and opens."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["NO_KEY", "SEALED_TEXT", "SEAL_BYTES", "UNSEALED", "Refused", "Unsealed"]

#: What a sealed body has besides the payload: see `sealing.py`.
SEAL_BYTES = 2 + 4 + 16 + 12 + 16 + 16

#: What a sealed text begins with, which is told to those who have the key.
SEALED_TEXT = "sealed:"

NO_KEY = "it is sealed, and no key was given: give the group's key file (--key-file, REPLICATOR_KEY_FILE, key_file=)"


class Refused(Exception):
    """Why the group's keys do not vouch for something; callers turn it into an error that names what that is."""


class Unsealed:
    """In the place of a `Sealing` of a group that has no key: nothing is sealed."""

    sealer: ClassVar[None] = None


UNSEALED = Unsealed()
