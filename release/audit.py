"""Whether a vulnerability is known in what requirements/ has: pip-audit, which asks a service about each package.

    python -m release.audit

Exit codes: 0 all was asked about, and none is known; 1 there are some, and they are listed; 3 not all was asked about.

An index without advisories answers that it does not know a package, and pip-audit then ends with "no known
vulnerabilities". So what counts here is how many packages there was an answer about.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from release.lock import BUILD, REQUIREMENTS

__all__ = ["Audit", "audit_of", "main"]

#: Who is asked, the first that answers: the package index, and the service that gathers from many.
SERVICES = ("pypi", "osv")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a service said. `problems`: lines of text, one a vulnerability. `skipped`: about whom it knows nothing."""

    asked: int
    skipped: tuple[str, ...]
    problems: tuple[str, ...]


def audit_of(report: str) -> Audit | None:
    """Read pip-audit's JSON. None: there is none, because the service did not answer."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return Audit(
        asked=len(packages),
        skipped=tuple(each["name"] for each in packages if "skip_reason" in each),
        problems=tuple(
            f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
            for each in packages
            for found in each.get("vulns", ())
        ),
    )


def audited(locks: Iterable[Path], service: str) -> Audit | None:
    files = [word for path in locks for word in ("--requirement", str(path))]
    pip_audit = Path(sysconfig.get_path("scripts")) / "pip-audit"
    # The locks name every package: pip has nothing to resolve, and nothing is downloaded.
    command = [str(pip_audit), "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    command += ["--timeout", "15", "--vulnerability-service", service, *files]
    return audit_of(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def answers(service: str) -> bool:
    """Asked about the one package that builds all others."""
    told = audited([REQUIREMENTS / f"{BUILD}.txt"], service)
    return told is not None and not told.skipped


def main() -> int:
    service = next((each for each in SERVICES if answers(each)), None)
    found = audited(sorted(REQUIREMENTS.glob("*.txt")), service) if service else None
    if found is None:
        print(
            f"Nothing was audited: none of {', '.join(SERVICES)} answers from here about advisories.", file=sys.stderr
        )
        return 3
    print(f"{found.asked - len(found.skipped)} of {found.asked} packages were audited ({service}).")
    for problem in found.problems:
        print(problem)
    if found.problems:
        return 1
    if found.skipped:
        print(f"Nothing is known about {', '.join(found.skipped)}.", file=sys.stderr)
        return 3
    print("No vulnerability is known.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
