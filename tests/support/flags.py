"""A state made of commands, with fields of every kind that a snapshot cuts: dicts, a list, and a number."""

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
    owners: dict[int, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    most: int = 100

    @change
    def set_flag(self, name: str, on: bool, percent: int = 100) -> Flag:
        if percent > self.most:
            raise ChangeRejected("percent is at most {most}", field="percent", most=self.most)
        flag = self.flags[name] = Flag(on, percent)
        return flag

    @change
    def drop_flag(self, name: str) -> Flag:
        if name not in self.flags:
            raise ChangeRejected("there is no flag {name}", field="name", name=name)
        return self.flags.pop(name)

    @change
    def own(self, owner: int, flags: list[str]) -> int:
        self.owners[owner] = (*self.owners.get(owner, ()), *flags)
        return len(self.owners[owner])

    @change
    def note(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)

    @change
    def bound(self, most: int) -> None:
        self.most = most
