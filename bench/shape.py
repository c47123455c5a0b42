"""How large functions, classes and files are here, beside public code that is read gladly: `make shape`.

    python -m bench.shape

A compass, not a gate: it names what is large, and whoever reads it judges. Everything is taken from syntax trees. The
figures of the others were taken once, in the same way (`MODELS`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.harness import Table, percentile

ROOT = Path(__file__).parents[1]

PRODUCT = ("replicator", "workers")
TESTS = ("tests",)

LONG_FUNCTION_LINES = 40

#: A class of so many methods is a hub.
HUB_METHODS = 20

#: A function of so many lines wants a sentence.
SILENT_LINES = 10

#: What is above one of these is named.
CLASS_METHODS_MAX = 25
CONSTRUCTOR_ARGUMENTS_MAX = 6
PRODUCT_FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800

#: Others, in the order of the rows of `figures`; "" where it was not measured. Patroni is there as a contrast.
MODELS: Mapping[str, tuple[str, ...]] = {
    "h11": ("7 / 64 / 64", "9.5 %", "22", "0.39", "18 %", "1.08", "1,120", ""),
    "procrastinate": ("9 / 88 / 126", "7.1 %", "36", "0.50", "27 %", "1.29", "907", ""),
    "etcd raft": ("8 / 98 / 395", "6.9 %", "43", "0.40", "", "1.70", "4,261", ""),
    "litefs": ("8 / 123 / 257", "10 %", "113", "0.35", "", "", "", ""),
    "Patroni": ("9 / 98 / 230", "8.6 %", "107", "0.63", "14 %", "0.45", "2,091", ""),
}


class Function(NamedTuple):
    """`lines`: from its `def` to its end. `silent`: it has neither a docstring nor a comment."""

    name: str
    lines: int
    silent: bool


class Class(NamedTuple):
    """`arguments`: how many its constructor takes besides `self`."""

    name: str
    methods: int
    arguments: int


@dataclass(frozen=True)
class Shape:
    """What some files are made of. `files`: the lines of each."""

    files: dict[str, int] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return sum(self.files.values())


def shape_of(folders: Iterable[str], root: Path = ROOT) -> Shape:
    """Read all Python files below these folders."""
    shape = Shape()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        name, text = path.relative_to(root).as_posix(), path.read_text()
        lines = text.splitlines()
        shape.files[name] = len(lines)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                shape.functions.append(_function(node, f"{name}:{node.lineno}", lines))
            elif isinstance(node, ast.ClassDef):
                shape.classes.append(_class(node, f"{name}:{node.lineno} {node.name}"))
    return shape


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, lines: list[str]) -> Function:
    end = node.end_lineno or node.lineno
    commented = any("#" in line for line in lines[node.lineno - 1 : end])
    return Function(name, end - node.lineno + 1, not commented and ast.get_docstring(node) is None)


def _class(node: ast.ClassDef, name: str) -> Class:
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Class(name, len(methods), max((_arguments(each) for each in methods if each.name == "__init__"), default=0))


def _arguments(constructor: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = constructor.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1


# --- What is said ---------------------------------------------------------------------------------------------------


def figures(product: Shape, tests: Shape) -> dict[str, str]:
    """The figures by which this code and the models are compared, by what they are of."""
    sizes = [function.lines for function in product.functions]
    hubs = sum(each.methods >= HUB_METHODS for each in product.classes)
    large = [function for function in product.functions if function.lines >= SILENT_LINES]
    return {
        "function: median / p99 / longest, lines": f"{median(sizes):.0f} / {percentile(sizes, 99):.0f} / {max(sizes)}",
        f"functions above {LONG_FUNCTION_LINES} lines": _share(sum(n > LONG_FUNCTION_LINES for n in sizes), len(sizes)),
        "most methods on a class": str(max(each.methods for each in product.classes)),
        f"classes of {HUB_METHODS} and more methods, per 1,000 lines": f"{hubs / product.lines * 1000:.2f}",
        f"functions of {SILENT_LINES} and more lines without comment or docstring": _share(
            sum(function.silent for function in large), len(large)
        ),
        "tests : code, lines": f"{tests.lines / product.lines:.2f}",
        "largest test file, lines": f"{max(tests.files.values()):,}",
        "largest product file, lines": f"{max(product.files.values()):,}",
    }


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}".replace("%", " %") if whole else "-"


def beside_models(ours: Mapping[str, str]) -> Table:
    rows = [
        [name, value, *(model[number] or "-" for model in MODELS.values())]
        for number, (name, value) in enumerate(ours.items())
    ]
    return Table(head=["", "here", *MODELS], rows=rows)


def named(product: Shape, tests: Shape) -> Iterator[str]:
    """What is above the bounds, each kind with its largest first."""
    classes = [*product.classes, *tests.classes]
    yield from _largest(
        f"classes of more than {CLASS_METHODS_MAX} methods",
        {each.name: each.methods for each in classes if each.methods > CLASS_METHODS_MAX},
    )
    yield from _largest(
        f"constructors of more than {CONSTRUCTOR_ARGUMENTS_MAX} arguments",
        {each.name: each.arguments for each in classes if each.arguments > CONSTRUCTOR_ARGUMENTS_MAX},
    )
    for what, shape, most in (
        ("product", product, PRODUCT_FILE_LINES_MAX),
        ("test", tests, TEST_FILE_LINES_MAX),
    ):
        above = {name: lines for name, lines in shape.files.items() if lines > most}
        yield from _largest(f"{what} files of more than {most} lines", above)


def _largest(what: str, sizes: Mapping[str, int]) -> Iterator[str]:
    yield f"\n{what}: {len(sizes) or 'none'}"
    yield from (f"  {size:5,}  {name}" for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def main() -> None:
    product, tests = shape_of(PRODUCT), shape_of(TESTS)
    print(f"{product.lines:,} lines in {', '.join(PRODUCT)}; {tests.lines:,} in tests\n")
    print(beside_models(figures(product, tests)).as_text())
    print(*named(product, tests), sep="\n")


if __name__ == "__main__":
    main()
