"""The files in docker/, without an engine: linters with the official schemas, and what those do not see."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from supervisor.options import ServerOptions

from replicator.log.urls import place_of
from replicator.metrics import files
from replicator.sandbox.stack import DevStack, find_conf
from tests.support.compose import COMPOSE, read_compose, read_env_file
from tests.support.prometheus import promtool

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
CONF = DOCKER / "supervisord.conf"


@pytest.fixture
def compose() -> dict[str, Any]:
    return read_compose()


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    """supervisord.conf as supervisord itself reads it, in the environment that `replicator dev` makes."""
    (tmp_path / "log").mkdir()
    for name in variables_used():
        monkeypatch.setenv(name, str(tmp_path) if name == "REPLICATOR_DEV_DIR" else "8001")
    monkeypatch.setenv("REPLICATOR_PYTHON", "/opt/my python/bin/python")
    options = ServerOptions()
    options.realize(["-n", "-c", str(CONF)])
    return options


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sysconfig.get_path("scripts")) / name
    return subprocess.run([str(tool), *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def variables_used() -> set[str]:
    return set(re.findall(r"%\(ENV_(\w+)\)s", CONF.read_text()))


# Dockerfile


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    result = run_tool("hadolint", "docker/Dockerfile")

    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    users = re.findall(r"^USER (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)

    assert users
    assert users[-1] not in {"root", "0"}


def test_what_the_image_installs_has_a_hash() -> None:
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [step for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE) for step in line.split("&&")]
    installing = [step for step in steps if re.search(r"\bpip (install|wheel|download)\b", step)]

    # By hash from a lock, or what stands in the image already: nothing is resolved, and no index is asked.
    locked = [step for step in installing if "--require-hashes" in step and "-r requirements/" in step]
    local = [step for step in installing if "--no-deps" in step and re.search(r"--no-index|--no-build-isolation", step)]
    assert len(locked) == 2
    assert sorted(installing) == sorted(locked + local)


def test_everything_that_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copies for source in line.split()]
    let_through = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"}

    assert sources
    assert set(sources) == let_through
    assert all((REPOSITORY / source).exists() for source in sources)


# compose.yaml


def test_compose_file_fits_the_official_schema() -> None:
    assert COMPOSE == DOCKER / "compose.yaml"
    result = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yaml")

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_that_another_depends_on_exists_and_has_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    needed = {name: how for service in services.values() for name, how in service.get("depends_on", {}).items()}

    assert set(needed) == {"redis", "prometheus"}
    for name, how in needed.items():
        assert how["condition"] == "service_healthy"
        assert "test" in services[name]["healthcheck"]


def test_the_profiles_have_what_their_names_say(compose: dict[str, Any]) -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for profile in service.get("profiles", [""]):
            by_profile.setdefault(profile, set()).add(name)

    assert by_profile == {
        "": {"redis", "node-a", "node-b", "node-c", "worker"},
        "ha": {"redis-replica-1", "redis-replica-2", "sentinel-1", "sentinel-2", "sentinel-3"},
        "archive": {"archive"},
        "schedule": {"cron"},
        "monitoring": {"prometheus", "grafana"},
    }


def test_every_volume_that_is_used_is_declared_and_no_two_services_share_one(compose: dict[str, Any]) -> None:
    mounted = [
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())
    ]
    files = {source for source in mounted if source.startswith(".")}

    assert sorted(source for source in mounted if source not in files) == sorted(compose["volumes"])
    assert all((DOCKER / source).is_file() for source in files)


def test_the_job_worker_has_a_volume_for_backups(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert worker["environment"]["REPLICATOR_BACKUPS"] == "/data/backups"
    assert worker["volumes"] == ["worker-data:/data"]


def test_every_service_is_limited_hardened_logs_to_files_that_rotate_and_is_started_again(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"memory", "cpus", "pids"}, name
        assert service["logging"]["driver"] == "json-file", name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["restart"] == "unless-stopped", name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_nodes_fail_over_by_themselves_and_are_well_when_they_are_ready(compose: dict[str, Any]) -> None:
    nodes = [service for name, service in compose["services"].items() if name.startswith("node-")]

    assert len(nodes) == 3
    for node in nodes:
        assert node["environment"]["REPLICATOR_AUTO_PROMOTE"] == "true"
        assert node["healthcheck"]["test"] == ["CMD", "python", "-m", "replicator.workers.healthcheck", "ready"]
    assert '"replicator.workers.healthcheck", "live"' in (DOCKER / "Dockerfile").read_text()


def test_with_sentinels_everybody_is_told_of_all_of_them(compose: dict[str, Any]) -> None:
    with_sentinels = read_compose(environment=read_env_file(DOCKER / "ha.env"))["services"]
    told = {
        name: service["environment"].get("REPLICATOR_REDIS")
        for name, service in with_sentinels.items()
        if "environment" in service
    }
    urls = {url for url in told.values() if url is not None}

    assert {name for name, url in told.items() if url} == {*compose["services"]} - {
        "redis",
        "redis-replica-1",
        "redis-replica-2",
        "prometheus",
        "grafana",
    }
    (url,) = urls
    place = place_of(url.partition("?")[0])
    assert [f"{host.host}:{host.port}" for host in place.hosts] == [f"sentinel-{number}:26379" for number in (1, 2, 3)]
    assert "sentinel monitor registry redis 6379 2" in (DOCKER / "redis/start-sentinel.sh").read_text()
    assert place.service == "registry"


def test_a_sentinel_whom_no_node_asks_does_not_start(compose: dict[str, Any]) -> None:
    environment = {"PATH": os.defpath, "SENTINEL_HOST": "s", "REPLICATOR_REDIS": "redis://redis:6379/0"}
    done = subprocess.run(
        ["sh", str(DOCKER / "redis/start-sentinel.sh")], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "add --env-file docker/ha.env" in done.stderr


def test_the_password_is_a_file_that_is_not_committed(compose: dict[str, Any]) -> None:
    assert compose["secrets"] == {"redis-password": {"file": "./redis-password"}}
    assert "/docker/redis-password" in (REPOSITORY / ".gitignore").read_text().splitlines()
    users = {name for name, service in compose["services"].items() if "redis-password" in service.get("secrets", ())}
    assert users == set(compose["services"]) - {"prometheus", "grafana"}


def test_redis_keeps_an_aof_and_evicts_nothing() -> None:
    told = (DOCKER / "redis/start-redis.sh").read_text().splitlines()

    assert {"appendonly yes", "maxmemory-policy noeviction"} <= set(told)


def test_ports_are_published_on_loopback_only_and_once(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.rsplit(":", 1)[0] for port in ports}) == 5


def test_each_node_has_its_own_name_and_listens_where_the_others_find_it(compose: dict[str, Any]) -> None:
    nodes = {name: service for name, service in compose["services"].items() if name.startswith("node-")}

    for name, service in nodes.items():
        environment = service["environment"]
        assert environment["REPLICATOR_NAME"] == name.removeprefix("node-")
        assert environment["REPLICATOR_HTTP"] == f"{service['hostname']}:8000" == f"{name}:8000"
        assert environment["REPLICATOR_GROUP"]
        assert environment["REPLICATOR_REDIS"].startswith("redis://redis:")


def test_the_modules_that_containers_run_exist(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    checks = [service["healthcheck"].get("test", []) for service in services]
    modules = {
        module
        for words in [service.get("command", []) for service in services] + checks
        for module in modules_run(words)
    }

    assert modules == {f"replicator.workers.{name}" for name in ("jobs", "archive", "cron", "healthcheck")}
    assert all(module_path(module).is_file() for module in modules)


def test_nodes_that_give_their_lease_back_are_the_same_nodes_in_a_wrapper(compose: dict[str, Any]) -> None:
    result = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.release.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    wrapped = yaml.safe_load((DOCKER / "compose.release.yaml").read_text())
    assert wrapped["name"] == compose["name"]
    assert set(wrapped["services"]) == {name for name in compose["services"] if name.startswith("node-")}
    (command,) = {tuple(service["command"]) for service in wrapped["services"].values()}
    assert command == ("replicator", "release", "--", "replicator", "node")


# monitoring/


def test_grafana_is_given_a_data_source_and_the_dashboard_where_it_looks_for_them(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    mounted = {
        target: (DOCKER / source).resolve()
        for source, target, _ in (each.split(":") for each in grafana["volumes"] if each[0] == ".")
    }
    provisioned = {
        target: yaml.safe_load(path.read_text()) for target, path in mounted.items() if "/provisioning/" in target
    }
    # the source: of the kind that the dashboard's variable asks for, at a service of this file, and the default one
    (sources,) = (each["datasources"] for target, each in provisioned.items() if "/provisioning/datasources/" in target)
    (source,) = sources
    variables = {each["name"]: each for each in json.loads(files.dashboard())["templating"]["list"]}
    assert source["type"] == variables["datasource"]["query"] == "prometheus"
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    used = set(re.findall(r'"uid": "([^"]*)"', files.dashboard()))
    assert used == {"replicator", "${datasource}"}, "its own, and what the variable says"
    # the dashboard: in the directory that the provider reads
    (providers,) = (each["providers"] for target, each in provisioned.items() if "/provisioning/dashboards/" in target)
    (provider,) = providers
    dashboard = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert dashboard.rpartition("/")[0] == provider["options"]["path"]
    assert mounted[dashboard] == REPOSITORY / "replicator/metrics/dashboard.json"


def test_prometheus_is_given_the_rules_and_every_node(compose: dict[str, Any], tmp_path: Path) -> None:
    # given the files where the service has them
    service = compose["services"]["prometheus"]
    for source, target, _ in (each.split(":") for each in service["volumes"] if each[0] == "."):
        shutil.copy(DOCKER / source, tmp_path / Path(target).name)
    # then promtool finds nothing wrong, and the rules
    (config,) = (word.partition("=")[2] for word in service["command"] if word.startswith("--config.file="))
    said = promtool("check", "config", str(tmp_path / Path(config).name))
    assert re.search(r"SUCCESS: [1-9]\d* rules found", said), said
    jobs = yaml.safe_load((DOCKER / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    told = {job["job_name"]: [target for each in job["static_configs"] for target in each["targets"]] for job in jobs}
    services = compose["services"]
    assert told == {
        "replicator": [services[name]["environment"]["REPLICATOR_HTTP"] for name in ("node-a", "node-b", "node-c")],
        "replicator-archive": [services["archive"]["environment"]["REPLICATOR_ARCHIVE_METRICS"]],
    }


# supervisord-node.conf


def test_the_node_of_a_host_has_a_listener_that_knows_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_HOME", str(tmp_path))
    monkeypatch.setenv("NODE_PYTHON", "/opt/my python/bin/python")
    options = ServerOptions()
    options.realize(["-n", "-c", str(DOCKER / "supervisord-node.conf")])
    found = {program.name: program for program in programs(options)}
    assert set(found) == {"node", "leases", "jobs", "archive"}
    assert {name for name, program in found.items() if not program.autostart} == {"jobs", "archive"}
    assert found["jobs"].environment["REPLICATOR_BACKUPS"] == str(tmp_path / "backups")
    data_dir = found["node"].environment["REPLICATOR_DATA_DIR"]
    assert shlex.split(found["leases"].command)[-1] == f"node={data_dir}"
    for program in found.values():
        assert [module_path(module).is_file() for module in modules_run(shlex.split(program.command))] == [True]


# supervisord.conf


def test_supervisord_reads_the_file_and_finds_the_programs(options: ServerOptions) -> None:
    groups = {
        group.name: [program.name for program in group.process_configs] for group in options.process_group_configs
    }

    nodes = ["node-a", "node-b", "node-c"]
    alone = {name: [name] for name in ("redis", "jobs", "archive", "cron")}
    assert groups == {**alone, "nodes": nodes}


def test_the_archiver_and_the_schedule_wait_for_somebody_to_start_them(options: ServerOptions) -> None:
    assert {program.name for program in programs(options) if not program.autostart} == {"archive", "cron"}


def test_redis_is_started_first_and_ended_last(options: ServerOptions) -> None:
    priorities = {group.name: group.priority for group in options.process_group_configs}

    assert priorities["redis"] < priorities["nodes"] < priorities["jobs"]


def test_every_program_is_restarted_ended_by_sigterm_and_logs_to_a_rotated_file(options: ServerOptions) -> None:
    for program in programs(options):
        assert program.autorestart.__name__ == "RestartUnconditionally"
        assert program.stopsignal == 15
        assert program.killasgroup
        assert not program.stopasgroup
        assert program.redirect_stderr
        assert program.stdout_logfile == f"{os.environ['REPLICATOR_DEV_DIR']}/log/{program.name}.log"
        assert program.stdout_logfile_maxbytes > 0
        assert program.stdout_logfile_backups > 0


def test_the_three_nodes_differ_only_in_name_directory_and_port(options: ServerOptions) -> None:
    nodes = [program for program in programs(options) if program.name.startswith("node-")]
    own = {"name", "command", "environment", "stdout_logfile"}
    first, *others = [{key: value for key, value in vars(node).items() if key not in own} for node in nodes]

    assert others == [first, first]
    assert [node.environment["REPLICATOR_NAME"] for node in nodes] == ["a", "b", "c"]
    assert len({node.environment["REPLICATOR_DATA_DIR"] for node in nodes}) == 3


def test_the_modules_that_programs_run_exist(options: ServerOptions) -> None:
    modules = {module for program in programs(options) for module in modules_run(shlex.split(program.command))}

    names = ("redis_server", "node", "jobs", "archive", "cron")
    assert modules == {f"replicator.workers.{name}" for name in names}
    assert {module for module in modules if not module_path(module).is_file()} == set()


def test_an_interpreter_with_a_space_in_its_path_is_run(options: ServerOptions) -> None:
    assert {shlex.split(program.command)[0] for program in programs(options)} == {"/opt/my python/bin/python"}


def test_every_variable_in_the_file_is_documented_at_its_head_and_set_by_the_dev_stack(tmp_path: Path) -> None:
    # given the head of the file, without programs
    head = CONF.read_text().split("; Started first")[0]
    documented = set(re.findall(r"^;   (REPLICATOR_\w+)", head, re.MULTILINE))
    documented |= {"REPLICATOR_HTTP_B", "REPLICATOR_HTTP_C"}  # written there as REPLICATOR_HTTP_A/_B/_C
    (tmp_path / "head.conf").write_text(head)

    # when a stack runs with it
    with DevStack(tmp_path, conf=tmp_path / "head.conf", port=0) as stack:
        environment = psutil.Process(stack.supervisord_pid()).environ()

    # then supervisord has all of them, and needs no others; the programs inherit four that it does not need itself
    assert documented <= set(environment)
    only_inherited = {"REPLICATOR_GROUP", "REPLICATOR_REDIS", "REPLICATOR_LOG_LEVEL", "REPLICATOR_LOG_FORMAT"}
    assert variables_used() == documented - only_inherited


def test_the_dev_stack_runs_this_very_file() -> None:
    assert find_conf() == CONF.resolve()


def programs(options: ServerOptions) -> list[Any]:
    return [program for group in options.process_group_configs for program in group.process_configs]


def modules_run(command: list[str]) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == "-m"]


def module_path(module: str) -> Path:
    return REPOSITORY / Path(*module.removeprefix("replicator.").split(".")).with_suffix(".py")
