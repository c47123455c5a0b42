"""A program that knows nothing of replication, as json-server is one: notes over HTTP, in a file that it rewrites.

`POST /notes` keeps what it is sent, `GET /notes` gives all of them, `DELETE /notes/N` takes one out. `/` is a page with
a form, `/told` says what it was sent, and the rest is what is hard to pass on.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

__all__ = ["notes"]

SOURCE = r'''
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
path, port = Path(sys.argv[1]), int(sys.argv[2])
lock = threading.Lock()
PAGE = b"""<!doctype html><form method=post action=/notes><input name=text><button>Keep</button></form><ul></ul><script>
fetch("/notes").then(a => a.json()).then(all => all.forEach(
    n => { const li = document.createElement("li"); li.textContent = n; document.querySelector("ul").append(li); }))
</script>"""
def read():
    return json.loads(path.read_bytes() or b"[]") if path.exists() else []
def write(all):
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(all))
    draft.replace(path)
class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 65536
    def log_message(self, *_): pass
    def whole(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size)); self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    def answer(self, status, body=b"", **more):
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        where, _, query = self.path.partition("?")
        if where == "/":
            self.answer(200, PAGE, Content_Type="text/html")
        elif where == "/told":
            told = {"target": self.path, "headers": [list(each) for each in self.headers.items()], "pid": os.getpid()}
            self.answer(200, json.dumps(told).encode(), Content_Type="application/json", Replicator_Refused="x")
        elif where == "/notes":
            with lock:
                all = read()
            self.answer(200, json.dumps(all).encode(), Content_Type="application/json")
        elif where == "/stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(int(query or 3)):
                piece = b"data: %d\n\n" % number
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece)); self.wfile.flush()
                if number == 0:
                    go.wait()
            self.wfile.write(b"0\r\n\r\n")
        elif where == "/go":
            go.set()
            self.answer(200)
        else:
            self.answer(404)
    do_HEAD = do_GET
    def do_POST(self):
        body = self.whole()
        if self.path == "/breaks":
            with lock:
                write([*read(), "broken"])
            self.close_connection = True
            return
        if self.path == "/size":
            return self.answer(200, str(len(body)).encode())
        text = body.decode()
        is_form = text.startswith("text=")
        with lock:
            write([*read(), text.removeprefix("text=")])
        self.answer(303 if is_form else 201, b"kept", **({"Location": "/"} if is_form else {}))
    def do_DELETE(self):
        with lock:
            all = read()
            all.pop(int(self.path.rpartition("/")[2]))
            write(all)
        self.answer(204)
go = threading.Event()
class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server(("127.0.0.1", port), Handler).serve_forever()
'''


def notes(path: Path, port: int) -> str:
    """The command line of one that keeps them in the file at `path`."""
    script = path.with_name("notes.py")
    script.write_text(SOURCE)
    return shlex.join([sys.executable, str(script), str(path), str(port)])
