"""python -m examples.links"""

from examples.running import main


def command(port: int) -> list[str]:
    return ["uvicorn", "examples.links.app:app", "--port", str(port), "--log-level", "warning"]


if __name__ == "__main__":
    main(command, "links", "curl -L -X PUT $b/docs -d https://example.org/docs", "curl -i $c/docs")
