from __future__ import annotations

from examples.running import main


def command(port: int) -> list[str]:
    return ["uvicorn", "examples.flags.app:app", "--port", str(port), "--log-level", "warning"]


if __name__ == "__main__":
    main(command, "flags", "curl -L -X PUT {url}/flags/dark-mode -H 'content-type: application/json' -d '{{\"on\": true}}'")
