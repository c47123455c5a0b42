"""A proxy before a program that cannot be changed: its requests find the program of the node that leads.

`routing.py` decides where a request goes and whether it may be sent once more (pure), `headers.py` what of its headers
goes along (pure). `upstream.py` passes one on, `body.py` and `answer.py` are what is held of bodies meanwhile,
`publications.py` has what the program wrote published before its answer goes out. `http.py` and `websocket.py` carry
that out for requests and WebSockets, and `serving.py` puts it beside a node.
"""

from .options import ProxyOptions
from .serving import Proxy

__all__ = ["Proxy", "ProxyOptions"]
