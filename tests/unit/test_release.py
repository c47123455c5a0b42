"""How a release is made: the rules, without a build."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from release import audit
from release.audit import Audit, audit_of
from release.packing import foreign_names, repacked
from release.source import version_of


def test_the_tag_of_its_version_makes_a_commit_a_release() -> None:
    assert version_of("0.1.0", ["v0.1.0", "tried"], 862) == ("0.1.0", True)


def test_without_one_it_is_a_trial_that_sorts_before_the_release() -> None:
    assert version_of("0.1.0", ["tried"], 862) == ("0.1.0.dev862", False)


def test_a_tag_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has the tag v0\.2\.0, and pyproject\.toml says 0\.1\.0"):
        version_of("0.1.0", ["v0.2.0"], 862)


def packed(names: list[str], *, mtime: int, mode: int, owner: str) -> bytes:
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime, member.mode, member.uname, member.size = mtime, mode, owner, len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return gzip.compress(unpacked.getvalue(), mtime=mtime)


def test_an_sdist_says_nothing_of_when_where_and_by_whom_it_was_built() -> None:
    one = packed(["r/b.py", "r/a.py"], mtime=1, mode=0o644, owner="ann")
    other = packed(["r/a.py", "r/b.py"], mtime=2, mode=0o664, owner="ben")
    assert one != other
    assert repacked(one, 7) == repacked(other, 7)
    with tarfile.open(fileobj=io.BytesIO(repacked(one, 7))) as archive:
        read = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        assert {name: file.read() for name, file in read.items() if file} == {"r/a.py": b"r/a.py", "r/b.py": b"r/b.py"}


def test_tests_and_benchmarks_are_foreign_to_a_package(tmp_path: Path) -> None:
    sdist = tmp_path / "r.tar.gz"
    names = ["r/replicator/__init__.py", "r/tests/test_a.py", "r/bench/__main__.py", "r/README.md"]
    sdist.write_bytes(packed(names, mtime=1, mode=0o644, owner=""))
    assert foreign_names(sdist) == {"tests", "bench"}


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


SOUND = {"name": "click", "version": "8.5.1", "vulns": []}
UNKNOWN = {"name": "rq", "skip_reason": "not found"}
BAD = {"name": "six", "version": "1.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["1.1"], "aliases": []}]}


def test_a_package_that_nothing_is_known_about_was_not_audited() -> None:
    told = audit_of(report(SOUND, UNKNOWN, BAD))
    assert told == Audit(asked=3, skipped=("rq",), problems=("six 1.0: GHSA-1, mended in 1.1",))


def test_no_answer_is_no_audit() -> None:
    assert audit_of("") is None


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ((SOUND,), 0, "No vulnerability is known"),
        ((SOUND, BAD), 1, "six 1.0: GHSA-1"),
        ((SOUND, UNKNOWN), 3, "Nothing is known about rq"),
        ((UNKNOWN,), 3, "Nothing was audited"),
    ],
)
def test_silence_is_no_all_clear(
    packages: tuple[dict[str, object], ...], code: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(audit, "audited", lambda locks, service: audit_of(report(*packages)))
    answered = any("skip_reason" not in each for each in packages)
    monkeypatch.setattr(audit, "answers", lambda service: answered)
    assert audit.main() == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
