"""A registry that looks like one in use, of any size and always the same for the same seed.

`generate(nodes, seed)` draws from one seeded generator in one fixed order and reads no clock, so a document can be
named by two numbers in a benchmark's command line. In proportion, for any number of nodes: one network per fifty nodes,
each node in one or two of them, a trust pair for every second node, and one per cent of the ids given up again, as in
a registry that has lived. 756 bytes of JSON per node; 108,000 nodes are about 80 MB. Nodes and networks have some
members that the registry does not know, which must survive.

    python -m bench.registry_data --nodes 108000 --seed 1 --out registry.json
"""

from __future__ import annotations

import base64
import datetime
import random
from pathlib import Path
from typing import Any

import click
import orjson

NODES_PER_NETWORK = 50
NODES_PER_TRUST_PAIR = 2

#: Times are drawn from the year that begins here. Any fixed instant would do; a clock would not.
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
YEAR_S = 365 * 24 * 3600

ROLES = ("web", "db", "cache", "queue", "build", "edge", "ml", "mail", "search", "proxy")
SITES = ("eu-west-1", "eu-north-1", "us-east-1", "us-west-2", "ap-south-1", "sa-east-1")
TEAMS = ("payments", "platform", "search", "growth", "data", "security", "mobile", "support")
VERSIONS = ("1.18.4", "1.19.0", "1.19.2", "1.20.0-rc1", "1.20.1")
SYSTEMS = ("linux/amd64", "linux/arm64", "darwin/arm64", "freebsd/amd64")
JOIN_RULES = ("open", "open", "token", "invite")

Record = dict[str, Any]


def generate(nodes: int, seed: int) -> Record:
    """A registry document (parsed JSON, without a term) of so many nodes."""
    draw = random.Random(seed)
    ids = _ids(draw, nodes)
    networks = {network: _network(draw, network) for network in range(max(1, nodes // NODES_PER_NETWORK))}
    records = {str(node): _node(draw, node, networks) for node in ids}
    for network in networks.values():
        network["member_roles"] = {str(node): "owner" for node in network["members"][:1]}
    return {
        "version": 1,
        "next_node": (ids[-1] if ids else 0) + 1,
        "next_net": len(networks),
        "nodes": records,
        "networks": {str(network): record for network, record in networks.items()},
        "trust_pairs": _trust_pairs(draw, ids),
        "generated": {"by": "bench.registry_data", "nodes": nodes, "seed": seed},
    }


def _ids(draw: random.Random, nodes: int) -> list[int]:
    ids: list[int] = []
    node = 0
    while len(ids) < nodes:
        node += 1
        if draw.random() >= 0.01:
            ids.append(node)
    return ids


def _node(draw: random.Random, node: int, networks: dict[int, Record]) -> Record:
    role, site, team = draw.choice(ROLES), draw.choice(SITES), draw.choice(TEAMS)
    joined = sorted({draw.randrange(len(networks)) for _ in range(draw.choice((1, 1, 2)))})
    for network in joined:
        networks[network]["members"].append(node)
    return {
        "id": node,
        "owner": f"{team}-oncall@{site}.example.org",
        "public_key": _base64(draw, 32),
        "real_addr": f"203.0.{draw.randrange(256)}.{draw.randrange(1, 255)}:{draw.randrange(20_000, 60_000)}",
        "networks": joined,
        "public": draw.random() < 0.1,
        "last_seen": _time(draw),
        "hostname": f"{role}-{node:06d}.{site}.{team}.example.org",
        "tags": [role, site, team, f"rack-{draw.randrange(400):03d}", f"ring-{draw.randrange(4)}"],
        "lan_addrs": [
            f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}:4000" for _ in range(3)
        ],
        "version": draw.choice(VERSIONS),
        "key_created": _time(draw),
        "system": draw.choice(SYSTEMS),
        "certificate": _base64(draw, 156),
        "score": draw.randrange(10_000) / 100,
    }


def _network(draw: random.Random, network: int) -> Record:
    rule = draw.choice(JOIN_RULES)
    token = {"token": draw.randbytes(16).hex()} if rule == "token" else {}
    return {
        "id": network,
        "name": f"{draw.choice(TEAMS)}-{network:05d}",
        "join_rule": rule,
        **token,
        "members": [],
        "member_roles": {},
        "created": _time(draw),
        "mtu": draw.choice((1280, 1420, 1500)),
    }


def _trust_pairs(draw: random.Random, ids: list[int]) -> list[str]:
    if len(ids) < 2:
        return []
    drawn = (sorted(draw.sample(ids, 2)) for _ in range(len(ids) // NODES_PER_TRUST_PAIR))
    # A dict and not a set: it drops what was drawn twice and keeps the order.
    return list(dict.fromkeys(f"{a}:{b}" for a, b in drawn))


def _base64(draw: random.Random, length: int) -> str:
    return base64.b64encode(draw.randbytes(length)).decode()


def _time(draw: random.Random) -> str:
    return (EPOCH + datetime.timedelta(seconds=draw.randrange(YEAR_S))).strftime("%Y-%m-%dT%H:%M:%SZ")


@click.command()
@click.option("--nodes", type=click.IntRange(min=0), default=10_000, show_default=True, help="How many nodes.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same document.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def main(nodes: int, seed: int, out: Path) -> None:
    """Write a generated registry document to a file."""
    size = out.write_bytes(orjson.dumps(generate(nodes, seed)))
    click.echo(f"{out}: {nodes} nodes, {size / 1e6:.1f} MB", err=True)


if __name__ == "__main__":
    main()
