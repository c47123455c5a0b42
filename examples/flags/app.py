"""Feature flags: FastAPI, on asyncio. `python -m examples.flags` runs three processes of it.

Every process answers reads from its own memory. A standby redirects writes to the primary; the client that made one
sees it in whichever process it asks next. A write with an Idempotency-Key may be repeated.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from examples.flags.state import Flag, FlagState
from replicator import Node
from replicator.web.asgi import Replicated
from replicator.web.idempotency import idempotency_key

node = Node.from_env(FlagState(), group="flags", auto_promote=True)
app = FastAPI(title="Flags")
app.add_middleware(Replicated, node=node)


class FlagBody(BaseModel):
    on: bool
    percent: int = 100


def sent_key(request: Request) -> str | None:
    return idempotency_key(request.headers)


Key = Annotated[str | None, Depends(sent_key)]


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
async def write_flag(name: str, body: FlagBody, key: Key) -> Flag:
    return await node.asubmit(FlagState.set_flag(name, body.on, body.percent), key=key)


@app.delete("/flags/{name}", status_code=204)
async def remove_flag(name: str, key: Key) -> None:
    await node.asubmit(FlagState.remove_flag(name), key=key)
