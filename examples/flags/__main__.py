"""python -m examples.flags"""

from examples.running import main


def command(port: int) -> list[str]:
    return ["uvicorn", "examples.flags.app:app", "--port", str(port), "--log-level", "warning"]


if __name__ == "__main__":
    main(
        command,
        "flags",
        "curl -L -X PUT $b/flags/dark-mode -H 'content-type: application/json' -d '{\"on\": true}'",
        "curl $c/flags/dark-mode",
        "curl -L -X DELETE $c/flags/dark-mode -H 'idempotency-key: \"1\"'",
    )
