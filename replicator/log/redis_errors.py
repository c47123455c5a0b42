"""What an error of the Redis client means to an operator, and what to do about it."""

from __future__ import annotations

import re

import redis

__all__ = ["advice", "is_forbidden", "is_of_another_type"]


class NoMaster(redis.exceptions.ConnectionError):
    """No master was found. The text is complete: it needs no advice."""


_ADVICE = {
    "READONLY": "it is a replica; point the URL at the master",
    "OOM": "its memory is full; raise maxmemory (and keep maxmemory-policy noeviction)",
    "LOADING": "it is still loading its data; it will answer soon",
    "NOAUTH": "it wants a password; put it into the URL, or a file that the URL names (?password_file=)",
    "WRONGPASS": "the password, of the URL or its file, is wrong",
    "NOPERM": "this user may not do that; see `ACL LOG`",
    "ACL failure": "this user may not do that; see `ACL LOG`",
    "can't run this command": "this user may not do that; see `ACL LOG`",
    "WRONGTYPE": "a key of the group holds something else; is it the right database?",
    "BADTERM": "the key was changed by hand; `replicator recover` sets it right",
    "BADHEAD": "the key was changed by hand; `replicator recover` founds the log anew",
    "MISCONF": "it cannot write to its disk",
    "BUSY": "a script keeps it busy",
    "MOVED": "another node of the cluster has the group's keys; a redis+cluster:// URL finds it",
    "ASK ": "the group's keys are moving to another node of the cluster; it will answer soon",
    "TRYAGAIN": "the group's keys are moving to another node of the cluster; it will answer soon",
    "DB index": "the URL ends with the number of a database, and this Redis has fewer",
    "CLUSTERDOWN": "the cluster lacks nodes; see `CLUSTER INFO`",
}


#: redis-py turns the first word of these answers into a class, and takes it out of the text.
_WORDS: dict[type[Exception], str] = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.AskError: "ASK",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
}


#: The first words of answers that mean: nothing was done, and another server is the one to ask. For an error within a
#: script, Redis 6.2 puts the word into the middle of the text, after a `-`.
_ELSEWHERE = re.compile(r"(^|-)(READONLY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN)\b")


def advice(error: Exception) -> str:
    """The text of an error, and what to do about it."""
    text = text_of(error)
    if isinstance(error, NoMaster):
        return text
    for word, hint in _ADVICE.items():
        # For an error within a script, Redis 6.2 puts the word into the middle.
        if word in text:
            return f"{text} ({hint})"
    return text


def is_forbidden(error: Exception) -> bool:
    """Whether the user lacks a right."""
    return _FORBIDDEN.search(text_of(error)) is not None


#: For an error within a script, Redis 6.2 says it without the word NOPERM.
_FORBIDDEN = re.compile("NOPERM|ACL failure|executing the script can't")


def is_elsewhere(error: Exception) -> bool:
    return _ELSEWHERE.search(text_of(error)) is not None


def text_of(error: Exception) -> str:
    return " ".join(filter(None, [_word_of(error), str(error)])) or type(error).__name__


def _word_of(error: Exception) -> str:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "NOAUTH" if "required" in str(error) else "WRONGPASS"
    return _WORDS.get(type(error), "")


def is_of_another_type(error: Exception) -> bool:
    """Whether a key holds something else than the command is for."""
    return isinstance(error, redis.exceptions.ResponseError) and str(error).startswith("WRONGTYPE")
