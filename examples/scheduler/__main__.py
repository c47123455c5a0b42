from __future__ import annotations

from examples.running import main


def command(port: int) -> list[str]:
    return ["flask", "--app", "examples.scheduler.app", "run", "--port", str(port), "--no-reload"]


if __name__ == "__main__":
    main(command, "scheduler", "curl -L -X PUT {url}/jobs/hello -H 'content-type: application/json' -d '{{\"every_s\": 1}}'")
