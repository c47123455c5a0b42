"""The models of msgspec and pydantic as types in annotations. Neither is needed: who uses one has imported it already.

Each converts and checks its own: in the log is what `msgspec.to_builtins`, or pydantic's `model_dump(mode="json")`,
makes of a model; what may be missing, and what else is taken, is as the model says.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson

from .converters import Converter, refuse, refuse_made

__all__ = ["model_converter_of"]


def model_converter_of(kind: type) -> Converter | None:
    """The converter of a class of theirs; None: it is none."""
    msgspec, pydantic = sys.modules.get("msgspec"), sys.modules.get("pydantic")
    if msgspec is not None and issubclass(kind, msgspec.Struct):
        return _Struct(kind, msgspec)
    if pydantic is not None and issubclass(kind, pydantic.BaseModel):
        return _Model(kind, pydantic)
    return None


class _Struct(Converter):
    """A `msgspec.Struct`."""

    def __init__(self, kind: Any, msgspec: Any) -> None:
        self._kind = kind
        self._msgspec = msgspec
        config = kind.__struct_config__
        self.kinds = frozenset({list if config.array_like else dict})
        self.mutable = None if config.frozen else f"{kind.__name__}, which is not frozen"

    def decode(self, value: Any, path: str) -> Any:
        try:
            return self._msgspec.convert(value, self._kind, str_keys=True)  # the keys of an object are text in JSON
        except Exception as error:
            refuse_made(path, error, by=self._msgspec.ValidationError)

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not self._kind:
            refuse(path, f"must be a {self._kind.__name__}")
        written = self._msgspec.to_builtins(value, str_keys=True)
        self.decode(written, path)  # a Struct that was made in Python was not checked
        return written


class _Model(Converter):
    """A `pydantic.BaseModel`."""

    kinds = frozenset({dict})

    def __init__(self, kind: Any, pydantic: Any) -> None:
        self._kind = kind
        self._pydantic = pydantic
        self.mutable = None if kind.model_config.get("frozen") else f"{kind.__name__}, which is not frozen"

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not dict:
            refuse(path, "must be an object")
        try:
            # As JSON: a strict model takes the text of a time there, and nowhere else.
            return self._kind.model_validate_json(orjson.dumps(value))
        except self._pydantic.ValidationError as error:
            first = error.errors()[0]
            refuse(".".join([path, *map(str, first["loc"])]), f"is refused: {first['msg']}")
        except Exception as error:
            refuse_made(path, error)

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not self._kind:
            refuse(path, f"must be a {self._kind.__name__}")
        written = value.model_dump(mode="json")
        self.decode(written, path)
        return written
