"""python -m examples.scheduler"""

from examples.running import main


def command(port: int) -> list[str]:
    bind = f"127.0.0.1:{port}"
    return ["gunicorn", "examples.scheduler.app:app", "--bind", bind, "--threads", "8", "--log-level", "warning"]


if __name__ == "__main__":
    main(command, "scheduler", "curl -L -X PUT '$b/jobs/hello?every_s=1'", "curl $c/jobs")
