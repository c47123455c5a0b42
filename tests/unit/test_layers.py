"""Imports run downward only, so that they form a graph one can draw on a napkin (docs/layout.md).

Level-mates do not import each other, except inside a package. A new module fails here until it is given a level.
The tests have an order of their own: what several tiers use is in tests/support/, and no tier imports another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Lowest first. A module may import those of the rows above its own, and within its own package.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("runtime", "format", "metrics", "tracing"),
    ("protocol", "web"),
    ("log", "storage"),
    ("pages",),
    ("state", "testing.memory_log", "client"),
    ("replica", "registry", "rq"),
    ("node",),
    ("ops",),
    ("ui",),
    ("service", "sandbox", "archive"),
    ("testing", "jobs"),
    ("cli", "__init__"),
)

#: Modules with a level of their own, below that of their package.
APART = frozenset(member for members in LEVELS for member in members if "." in member)

#: Those that decide and do not act.
PURE = ("format", "protocol")

#: What has a clock, a socket, a file, chance or a thread in it has no place in what is pure.
IMPURE = {
    "asyncio",
    "concurrent",
    "ctypes",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}

#: What they take from outside: encoders and hashes.
PURE_TAKES = {
    *("orjson", "xxhash", "backports", "compression", "cryptography"),
    *("replicator.errors", *(f"replicator.{p}" for p in PURE)),
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of the package: its dotted name and its file."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[str]:
    """The dotted names that a module imports, wherever in the file; `from x import y` gives x and x.y."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from {base, *(f"{base}.{alias.name}" for alias in node.names)}


def unit(name: str) -> str:
    """What has a level: a part of the package, `replicator.protocol.fold` -> `protocol`, or one of `APART`."""
    parts = name.split(".")
    if (inner := ".".join(parts[1:3])) in APART:
        return inner
    return parts[1] if len(parts) > 1 else "__init__"


KNOWN = {name for package in ("replicator", "workers") for name, _ in modules(package)}
REPLICATOR = [pytest.param(name, path, id=name) for name, path in modules("replicator")]
PURE_MODULES = [pytest.param(name, path, id=name) for name, path in modules("replicator") if unit(name) in PURE]


def level(name: str) -> int:
    for number, members in enumerate(LEVELS):
        if unit(name) in members:
            return number
    raise AssertionError(f"{name} has no level: give it one in LEVELS of {__file__}, as low as its imports allow")


def ours(name: str, path: Path) -> set[str]:
    """The modules of our own that it imports. The bare package stands for itself only if nothing below it is meant."""
    found = {imported for imported in imports(name, path) if imported in KNOWN}
    return found - {"replicator"} if found - {"replicator"} else found


@pytest.mark.parametrize(("name", "path"), REPLICATOR)
def test_a_module_imports_only_what_lies_below_it(name: str, path: Path) -> None:
    for imported in ours(name, path):
        inside = unit(imported) == unit(name)
        assert inside or level(imported) < level(name), f"{name} imports {imported}, which is not below it"


@pytest.mark.parametrize(("name", "path"), PURE_MODULES)
def test_what_decides_is_pure(name: str, path: Path) -> None:
    for imported in imports(name, path):
        top = imported.partition(".")[0]
        assert top not in IMPURE, f"{name} imports {imported}: it decides, and others act"
        taken = any(imported == each or imported.startswith(each + ".") for each in PURE_TAKES)
        assert taken or top in sys.stdlib_module_names, f"{name} imports {imported}"


def test_no_module_needs_one_that_needs_it() -> None:
    needs = {name: ours(name, path) for name, path in modules("replicator")}
    reached: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in reached:
            reached[name] = set()  # what is asked for again, while it is being found, is on a circle
            for each in needs[name]:
                reached[name] |= {each, *reach(each)}
        return reached[name]

    assert [name for name in needs if name in reach(name)] == []


@pytest.mark.parametrize(("name", "path"), REPLICATOR)
def test_only_the_log_speaks_to_redis(name: str, path: Path) -> None:
    tops = {imported.partition(".")[0] for imported in imports(name, path)}
    # RQ has connections of its own.
    assert unit(name) == "log" or "redis" not in tops, f"{name} imports redis: that is for replicator.log"


@pytest.mark.parametrize(("name", "path"), REPLICATOR)
def test_the_package_does_not_import_its_workers_or_its_tests(name: str, path: Path) -> None:
    tops = {imported.partition(".")[0] for imported in imports(name, path)}
    assert not tops & {"workers", "tests", "bench"}


def allowed(imported: str, tier: str) -> bool:
    """Whether tests of this tier may import that: what is of no tier, or of their own, and no tests."""
    # The root has the type of a fixture that several tiers use.
    among = {"support"} if tier == "support" else {"support", "conftest", tier}
    return unit(imported) in among and not any(part.startswith("test_") for part in imported.split("."))


def test_no_tier_of_tests_imports_another() -> None:
    for name, path in modules("tests"):
        for imported in imports(name, path):
            if imported.startswith("tests."):
                assert allowed(imported, unit(name)), f"{name} imports {imported}: that is for tests.support"


def test_a_tier_shares_by_support_alone() -> None:
    assert allowed("tests.support.kv.KV", "unit")
    assert allowed("tests.chaos.wire", "chaos")
    assert not allowed("tests.unit.helpers", "integration")
    assert not allowed("tests.unit.node.test_node", "unit")
    assert not allowed("tests.unit.helpers", "support")


def test_the_tests_of_a_module_have_its_name() -> None:
    for name, path in modules("tests/unit"):
        package = ROOT / "replicator" / path.parent.name
        if path.stem.startswith("test_") and package.is_dir():
            subject = path.stem.removeprefix("test_")
            stems = {each.stem for each in package.iterdir()}
            assert any(subject == stem or subject.startswith(f"{stem}_") for stem in stems), name


def test_every_level_that_is_named_once_is_named_once() -> None:
    named = [member for members in LEVELS for member in members]
    assert len(named) == len(set(named))


def test_the_walk_sees_imports_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("import a.b\nfrom . import c\nfrom .d import e\ndef f():\n    from ..g import h\n")
    assert set(imports("p.q.m", path)) == {"a.b", "p.q", "p.q.c", "p.q.d", "p.q.d.e", "p.g", "p.g.h"}


def test_a_module_without_a_level_is_told_what_to_do() -> None:
    with pytest.raises(AssertionError, match="has no level: give it one in LEVELS"):
        level("replicator.something_new")
