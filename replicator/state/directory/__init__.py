"""A directory as a state (`state.py`)."""

from .state import DirectoryState

__all__ = ["DirectoryState"]
