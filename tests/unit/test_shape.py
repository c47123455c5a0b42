"""What `make shape` counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import shape
from bench.shape import Class, Function

SOURCE = '''\
class Sized:
    def __init__(self, one, /, two, *, three=3):
        self.sum = one + two + three

    async def told(self):
        """It has a docstring."""
        return self.sum


def commented():
    return 1  # because


def silent():
    def inner():
        return 2

    return inner
'''


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(SOURCE)
    return tmp_path


def test_functions_are_counted_wherever_they_are_from_def_to_end(here: Path) -> None:
    found = shape.shape_of(["package"], here)
    assert sorted(found.functions) == [
        Function("package/module.py:10", 2, silent=False),
        Function("package/module.py:14", 5, silent=True),
        Function("package/module.py:15", 2, silent=True),
        Function("package/module.py:2", 2, silent=True),
        Function("package/module.py:5", 3, silent=False),
    ]


def test_a_class_has_its_methods_and_what_its_constructor_takes(here: Path) -> None:
    found = shape.shape_of(["package"], here)
    assert found.classes == [Class("package/module.py:1 Sized", methods=2, arguments=3)]
    assert found.files == {"package/module.py": found.lines} == {"package/module.py": 18}


def test_every_model_has_a_figure_or_a_blank_for_every_row(here: Path) -> None:
    found = shape.shape_of(["package"], here)
    rows = shape.beside_models(shape.figures(found, found)).rows
    assert {len(model) for model in shape.MODELS.values()} == {len(rows)}
    assert rows[0][:3] == ["function: median / p99 / longest, lines", "2 / 5 / 5", "7 / 64 / 64"]


def test_what_is_large_is_named_with_the_largest_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "CLASS_METHODS_MAX", 1)
    monkeypatch.setattr(shape, "PRODUCT_FILE_LINES_MAX", 10)
    found = shape.shape_of(["package"], here)
    said = list(shape.named(found, shape.Shape()))
    assert said == [
        "\nclasses of more than 1 methods: 1",
        "      2  package/module.py:1 Sized",
        "\nconstructors of more than 6 arguments: none",
        "\nproduct files of more than 10 lines: 1",
        "     18  package/module.py",
        "\ntest files of more than 800 lines: none",
    ]
