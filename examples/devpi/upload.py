"""Uploads a small wheel to a devpi, into a new index root/dev: python -m examples.devpi.upload URL"""

from __future__ import annotations

import io
import sys
import zipfile

import httpx

WHEEL = "on_two_hosts-1.0-py3-none-any.whl"

FILES = {
    "on_two_hosts/__init__.py": 'says = "on two hosts"\n',
    "on_two_hosts-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: on-two-hosts\nVersion: 1.0\n",
    "on_two_hosts-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "on_two_hosts-1.0.dist-info/RECORD": "",
}

TIMEOUT_S = 60.0


def wheel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return packed.getvalue()


def main(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as devpi:
        login = devpi.post("/+login", json={"user": "root", "password": ""}).raise_for_status()
        devpi.auth = httpx.BasicAuth("root", login.json()["result"]["password"])
        if devpi.get("/root/dev").status_code == httpx.codes.NOT_FOUND:
            devpi.put("/root/dev", json={"type": "stage", "bases": []}).raise_for_status()
        told = {":action": "file_upload", "name": "on-two-hosts", "version": "1.0", "filetype": "bdist_wheel"}
        devpi.post(
            "/root/dev/", data=told | {"pyversion": "py3"}, files={"content": (WHEEL, wheel())}
        ).raise_for_status()
    print(f"uploaded {WHEEL}")


if __name__ == "__main__":
    main(sys.argv[1])
