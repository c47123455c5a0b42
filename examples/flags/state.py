"""The state of the flag service: its fields are what is kept, its methods are the changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicator import ChangeRejected, Commands, change


@dataclass(frozen=True)
class Flag:
    on: bool
    percent: int = 100


@dataclass
class FlagState(Commands):
    flags: dict[str, Flag] = field(default_factory=dict)

    @change
    def set_flag(self, name: str, on: bool, percent: int = 100) -> Flag:
        if not 0 <= percent <= 100:
            raise ChangeRejected("percent is from 0 to 100", field="percent")
        flag = self.flags[name] = Flag(on, percent)
        return flag

    @change
    def remove_flag(self, name: str) -> None:
        if self.flags.pop(name, None) is None:
            raise ChangeRejected("there is no flag {name}", field="name", name=name)
