"""Feature flags, as a web service of three processes: FastAPI, on asyncio. `python -m examples.flags` runs it.

Every process answers reads from its own memory. A write that comes to a standby is sent on to the primary, and the
client that made it sees it in whichever process it asks next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

from replicator import ChangeRejected, Commands, Node, change
from replicator.web.asgi import Replicated


@dataclass(frozen=True)
class Flag:
    on: bool
    percent: int = 100


@dataclass
class FlagState(Commands):
    flags: dict[str, Flag] = field(default_factory=dict)

    @change
    def set_flag(self, name: str, on: bool, percent: int) -> Flag:
        if not 0 <= percent <= 100:
            raise ChangeRejected("percent is from 0 to 100", field="percent")
        flag = self.flags[name] = Flag(on, percent)
        return flag

    @change
    def remove_flag(self, name: str) -> None:
        if self.flags.pop(name, None) is None:
            raise ChangeRejected(f"there is no flag {name}", field="name")


node = Node(
    FlagState(),
    group="flags",
    name=os.environ["NAME"],
    redis=os.environ["REPLICATOR_REDIS"],
    data_dir=os.environ["DATA_DIR"],
    http=os.environ["URL"],
    auto_promote=True,
)
app = FastAPI(title="Flags")
app.add_middleware(Replicated, node=node)  # type: ignore[arg-type]


class FlagBody(BaseModel):
    on: bool
    percent: int = 100


Key = Annotated[str | None, Header(alias="Idempotency-Key")]


@app.get("/flags")
async def list_flags() -> dict[str, Flag]:
    return await node.view(lambda state: dict(state.flags))


@app.get("/flags/{name}")
async def read_flag(name: str) -> Flag:
    flag = await node.view(lambda state: state.flags.get(name))
    if flag is None:
        raise HTTPException(404, f"there is no flag {name}")
    return flag


@app.put("/flags/{name}")
async def write_flag(name: str, body: FlagBody, key: Key = None) -> Flag:
    return await node.asubmit(FlagState.set_flag(name, body.on, body.percent), key=key)


@app.delete("/flags/{name}", status_code=204)
async def remove_flag(name: str, key: Key = None) -> None:
    await node.asubmit(FlagState.remove_flag(name), key=key)
