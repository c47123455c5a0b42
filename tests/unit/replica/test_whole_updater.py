"""States without `apply`, through nodes: patches, snapshots of what was published, restarts, and who gives what up."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from replicator import Node
from replicator.errors import ConfigError, Fenced, LogUnavailable, NotPrimary, StateChanged, StateError
from replicator.format.codec import digest_of, digest_of_pieces
from replicator.format.ids import ZERO_ID
from replicator.format.patch import CODEC, cut
from replicator.format.records import BODY_BYTES_MAX, ChangeRecord, PartRecord
from replicator.ops.certify import Certificate, certify
from replicator.ops.log_check import Violation
from replicator.protocol.group import Code, Reply
from replicator.storage import forks
from replicator.testing import MemoryLog
from tests.support.kv import PATIENCE_S, FaultyLog, Group, eventually, in_step
from tests.support.nodes import saves_nothing_unasked
from tests.support.opaque import KIB, Kept, Text, has, noise, pieces


def records(log: FaultyLog, kind: type = ChangeRecord) -> list[Any]:
    return [record for record in log.sent if isinstance(record, kind)]


def test_what_changed_goes_out_as_a_patch(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", state=Text(pieces(900 * KIB)), log=log)
    b = group.node("b", state=Text())
    assert a.publish().what == "whole"
    has(b, a._setup.state.pieces)
    # when one piece of it changes
    a._setup.state.pieces[3] = b"x" + a._setup.state.pieces[3][1:]
    published = a.publish()
    # then that is all that is sent
    assert published.what == "patch"
    assert published.bytes < 1000
    assert published.id == a.position.id
    assert [record.codec for record in records(log)] == [CODEC]
    has(b, a._setup.state.pieces)
    assert a._setup.state.restored == 0


def test_json_pieces_are_patched_as_well(group: Group) -> None:
    a = group.primary("a", state=Text([{"id": at, "name": f"name {at}"} for at in range(20_000)]))
    b = group.node("b", state=Text())
    a.publish()
    a._setup.state.pieces[700] = {"id": 700, "name": "another", "score": 1.5}
    del a._setup.state.pieces[9000]
    assert a.publish().what == "patch"
    has(b, a._setup.state.pieces)


def test_what_did_not_change_is_not_published(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    a.publish()
    before = a.position
    assert a.publish() == ("nothing", before.id, 0)
    assert a.position == before


def test_what_changed_altogether_goes_out_whole(group: Group) -> None:
    a = group.primary("a", state=Text([{"id": at, "name": f"name {at}"} for at in range(20_000)]))
    b = group.node("b", state=Text())
    a.publish()
    a._setup.state.pieces = [b"short"]
    assert a.publish().what in ("whole", "patch")
    has(b, [b"short"])
    a._setup.state.pieces = pieces(400 * KIB)
    assert a.publish().what == "whole"
    has(b, a._setup.state.pieces)


def test_a_patch_of_several_records_is_one_change(group: Group) -> None:
    # given a payload of which 700 KiB change: that takes three records, and whole it is more
    log = group.faulty_log()
    a = group.primary("a", state=Text(pieces(2000 * KIB)), log=log)
    b = group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)
    before = list(a._setup.state.pieces)
    a._setup.state.pieces[4:18] = pieces(700 * KIB, seed=77)
    # when the primary loses Redis in the middle
    log.faults.extend([log.execute, log.execute, lambda record: _down(log)])
    with pytest.raises(LogUnavailable):
        a.publish()
    # then nobody has anything of it, not even after a restart
    eventually(lambda: b.position == a.position)
    assert b._setup.state.pieces == before
    again = group.node("b", state=Text(), data_dir=group.crash(b))
    assert again._setup.state.pieces == before
    # and the next one is whole, though it begins anew
    assert a.publish().what == "patch"
    assert len(records(log)) == 3 + 3
    has(again, a._setup.state.pieces)


def test_a_standby_saves_first_whatever_it_reads_for_its_state_outlives_the_process(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    in_step(a, b)
    saves_nothing_unasked(b)
    a._running.primary.commits.mark()
    in_step(a, b)
    saved = b._running.checkpoint.load()
    assert saved is not None
    assert saved.view.position == b.position


def _down(log: FaultyLog) -> Reply:
    raise LogUnavailable(url=log.url, problem="for a moment")


def test_a_standby_that_is_killed_within_a_patch_goes_on_with_its_rest(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", state=Text(pieces(2000 * KIB)), log=log)
    b = group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)
    a._setup.state.pieces[4:18] = pieces(700 * KIB, seed=77)
    restarted: list[Node] = []

    def kill_b(record: Any) -> Reply:
        # two of the three are on its disk
        eventually(lambda: b.position.id.n == record.id.n - 1)
        restarted.append(group.node("b", state=Text(), data_dir=group.crash(b)))
        return log.execute(record)

    log.faults.extend([log.execute, log.execute, kill_b])
    assert a.publish().what == "patch"
    assert len(records(log)) == 3
    has(restarted[0], a._setup.state.pieces)


def test_a_restart_rebuilds_from_the_snapshot_and_the_patches(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(300 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    for at in range(3):
        a._setup.state.pieces[at] = b"changed"
        a.publish()
    has(b, a._setup.state.pieces)
    b.stop()
    for damage in (lambda path: None, lambda path: path.write_bytes(b"damaged"), lambda path: path.unlink()):
        # the file beside the checkpoint is a cache
        damage(b.data_dir / "payload")
        again = group.node("b", state=Text())
        assert again._setup.state.pieces == a._setup.state.pieces
        a._setup.state.pieces.append(b"more")
        assert a.publish().what == "patch"
        has(again, a._setup.state.pieces)
        again.stop()


def test_a_cache_from_before_the_last_patches_is_brought_up_to_date(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(300 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)
    eventually((b.data_dir / "payload").exists)
    before = (b.data_dir / "payload").read_bytes()
    for at in range(2):
        a._setup.state.pieces[at] = b"changed"
        a.publish()
    has(b, a._setup.state.pieces)
    b.stop()
    # given that it was killed between saving the patches and the cache
    (b.data_dir / "payload").write_bytes(before)
    (b.data_dir / "payload.new-7").write_bytes(b"half")
    again = group.node("b", state=Text())
    assert again._setup.state.pieces == a._setup.state.pieces
    assert [path.name for path in b.data_dir.glob("payload*")] == ["payload"]


def test_a_snapshot_shows_what_was_published_and_not_what_the_program_has_done_since(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(300 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    published = list(a._setup.state.pieces)
    has(b, published)
    a._setup.state.pieces[0] = b"not published"
    for _ in range(2):  # because somebody needs one, or asked; the second one has the first publication trimmed
        a._running.primary.publisher.publish()
    assert group.log().read(ZERO_ID).records[0].kind == "part"
    c = group.node("c", state=Text())
    has(c, published)
    # and a patch fits to it, on a node that saw it pass by and on one that was rebuilt from it
    assert a.publish().what == "patch"
    has(b, a._setup.state.pieces)
    has(c, a._setup.state.pieces)


def test_patches_that_outweigh_the_snapshot_make_another_one_due(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", state=Text(pieces(1200 * KIB)), log=log)
    a.publish()
    sent = len(records(log, PartRecord))
    for seed in range(4):
        a._setup.state.pieces[:8] = pieces(400 * KIB, seed=100 * seed)
        assert a.publish().what == "patch"
    eventually(lambda: len(records(log, PartRecord)) > sent, "a snapshot")
    eventually(lambda: not a._running.primary.publisher.snapshot_is_due)


def test_a_patch_that_does_not_start_from_what_a_node_has_is_not_applied(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(300 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)
    before = list(a._setup.state.pieces)
    # given a standby whose payload is another one than its position says
    whole = b._running.replica.whole
    assert whole is not None
    list(whole.received(*_snapshot_of([b"damaged"]), id_="damaged"))
    whole.adopt()
    restored = b._setup.state.restored
    # when a patch comes
    a._setup.state.pieces[0] = b"changed"
    a.publish()
    # then it is passed by, and the node gets a snapshot
    has(b, a._setup.state.pieces)
    assert b._setup.state.restored == restored + 1
    eventually(lambda: b.in_sync)
    assert a._setup.state.pieces != before


def _snapshot_of(pieces: list[bytes]) -> tuple[str, str, list[bytes], Any]:
    from replicator.format.codec import SnapshotEncoder

    encoder = SnapshotEncoder()
    bodies = [*map(encoder.feed, pieces), encoder.finish()]
    return encoder.codec, encoder.digest, bodies


def test_what_is_no_patch_is_passed_by(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    has(b, [b"text"])
    (body,) = cut(b"not a patch")
    with a._running.replica.write_lock:
        node_state = a._running.replica.node_state
        record = node_state.change(codec=CODEC, body=body, digest=digest_of(body), count=1, at=1)
        assert a._setup.log.append(record).code is Code.OK
        # the primary has it behind it without having applied it: as its program wrote it
        _, after = node_state.fold(record)
        a._running.replica.known.adopt(after)
    eventually(lambda: not b.in_sync or b.position.id.n > record.id.n, "it is passed by")
    eventually(lambda: b.in_sync and b.position.id >= record.id)
    assert b._setup.state.pieces == [b"text"]


def test_there_is_nothing_to_submit(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    with pytest.raises(ConfigError, match=r"no apply\(\).*publish"):
        a.submit({"op": "x"})


def test_only_the_primary_publishes(group: Group) -> None:
    group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text([b"other"]))
    with pytest.raises(NotPrimary):
        b.publish()
    assert b._setup.state.pieces == [b"other"]


def test_who_stops_leading_gives_up_what_it_did_not_publish(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    has(b, [b"text"])
    a._setup.state.pieces = [b"not published"]
    b.promote(timeout_s=PATIENCE_S)
    has(a, [b"text"])
    b._setup.state.pieces = [b"newer"]
    b.publish()
    has(a, [b"newer"])


def test_a_state_that_cannot_be_written_now_is_written_later(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(2000 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)
    # given a disk that is full for a moment, at a patch of several records
    b._setup.state.failures = [StateError(path="file", problem="disk full")]
    a._setup.state.pieces[4:18] = pieces(700 * KIB, seed=77)
    a.publish()
    eventually(lambda: "disk full" in b.problem)
    assert b.stalled is None
    has(b, a._setup.state.pieces)
    eventually(lambda: not b.problem)
    # and when it stops leading
    b.promote(timeout_s=PATIENCE_S)
    b._setup.state.failures = [StateError(path="file", problem="disk full again")]
    published, b._setup.state.pieces = b._setup.state.pieces, [b"not published"]
    a.promote(timeout_s=PATIENCE_S)
    has(b, published)


@pytest.mark.parametrize("kept", [True, False])
def test_a_state_that_survived_is_left_alone_when_its_node_led(group: Group, kept: bool) -> None:
    make = Kept if kept else Text
    text = pieces(100 * KIB)
    a = group.primary("a", state=make(text))
    a.publish()
    a.stop()
    # when its program goes on while the node is away
    again = group.node("a", state=make([*text, b"went on"]), on_restart="standby")
    assert again._setup.state.pieces == ([*text, b"went on"] if kept else text)
    again.promote(timeout_s=PATIENCE_S)
    assert again.publish().what == ("patch" if kept else "nothing")
    assert not kept or again._setup.state.publications == 1


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_node_published_and_had_not_saved_does_not_set_its_state_back(group: Group, kept: bool) -> None:
    # given a primary that is killed before the whole and the patch that it published are on its disk
    make = Kept if kept else Text
    a = group.primary("a", state=make(pieces(100 * KIB)))
    a._running.replica.flush()
    a._running.replica.saved.save = lambda steps, *, synced=True: None  # type: ignore[method-assign]
    a.publish()
    a._setup.state.pieces[0] = b"changed"
    assert a.publish().what == "patch"
    published = list(a._setup.state.pieces)
    data_dir = group.crash(a)
    # when it comes back and reads them
    again = group.node("a", state=make([*published, b"went on"]), data_dir=data_dir)
    eventually(lambda: again.role == "primary" and again._setup.lease.held)
    # then its program's work is as it was
    assert again._setup.state.pieces == ([*published, b"went on"] if kept else published)
    assert again.publish().what == ("patch" if kept else "nothing")


def test_a_state_that_survived_becomes_what_another_one_published(group: Group) -> None:
    a = group.primary("a", state=Kept([b"text"]))
    b = group.node("b", state=Kept())
    a.publish()
    has(b, [b"text"])
    a.stop()
    b.promote(timeout_s=PATIENCE_S)
    again = group.node("a", state=Kept([b"went on"]))
    # nobody published since, and it is what the group has all the same
    has(again, [b"text"])


def test_a_lost_answer_to_a_patch_is_resolved(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", state=Text(pieces(100 * KIB)), log=log)
    b = group.node("b", state=Text())
    a.publish()
    a._setup.state.pieces[1] = b"changed"
    log.faults.append(log.lose_the_answer)
    assert a.publish().what == "patch"
    has(b, a._setup.state.pieces)


@pytest.mark.parametrize("size", [100 * KIB, 1], ids=["as a patch", "whole"])
def test_what_was_drawn_in_a_term_that_is_over_is_not_published(group: Group, size: int) -> None:
    a, b = group.primary("a", state=Text(pieces(size))), group.node("b", state=Text())
    a.publish()
    has(b, a._setup.state.pieces)

    def drawn_slowly() -> Iterator[Any]:
        yield b"changed"
        # given that another one led, and published, while it was drawn, and this one leads again
        b.promote(timeout_s=PATIENCE_S)
        b._setup.state.pieces.append(b"of another")
        b.publish()
        a.promote(timeout_s=PATIENCE_S)
        yield from pieces(size)

    a._setup.state.snapshot = drawn_slowly
    with pytest.raises(Fenced):
        a.publish()
    assert b._setup.state.pieces == [*pieces(size), b"of another"]


def test_replace_sets_the_state_everywhere(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    a.replace([b"replaced"])
    assert a._setup.state.pieces == [b"replaced"]
    has(b, [b"replaced"])
    assert a.publish().what == "nothing"


def test_what_a_program_wrote_after_a_replace_is_given_up_by_a_primary_that_was(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    a.replace([b"replaced"])
    has(b, [b"replaced"])
    a._setup.state.pieces = [b"ahead"]
    b.promote(timeout_s=PATIENCE_S)
    has(a, [b"replaced"])


def test_a_state_that_never_holds_still_is_not_published(group: Group) -> None:
    class Restless(Text):
        tries = 0

        def snapshot(self) -> Iterator[Any]:
            self.tries += 1
            yield b"some"
            if self.tries != 3:
                raise StateChanged(path="file")

    a = group.primary("a", state=Restless())
    assert a.publish().what == "whole"
    assert a._setup.state.tries == 3
    with pytest.raises(StateChanged, match="again and again"):
        a.publish()
    assert list(a.data_dir.glob("payload.new*")) == []


def test_nodes_digest_what_was_published(group: Group) -> None:
    a = group.primary("a", state=Text([b"text"]))
    b = group.node("b", state=Text())
    a.publish()
    has(b, [b"text"])
    a._setup.state.pieces = [b"ahead"]
    a._running.primary.commits.mark()
    eventually(
        lambda: (
            (told := a._running.ha_loop.reporter.heartbeat()).digest
            and told.digest == b._running.ha_loop.reporter.heartbeat().digest
        ),
        "equal digests",
    )


def test_a_publication_waits_for_the_disk_of_a_standby(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(100 * KIB)))
    b = group.node("b", state=Text())
    a.publish(ack="applied:1", timeout_s=PATIENCE_S)
    assert b._setup.state.pieces == a._setup.state.pieces
    a._setup.state.pieces[0] = b"changed"
    a.publish(ack="applied:1", timeout_s=PATIENCE_S)
    assert b._running.replica.whole is not None
    assert b.position.id == a.position.id


def test_a_primary_that_lost_redis_data_rebases_with_what_was_published(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(100 * KIB)))
    b = group.node("b", state=Text())
    a.publish()
    copy = group.server.state
    a._setup.state.pieces[0] = b"changed"
    a.publish()
    has(b, a._setup.state.pieces)
    published = list(a._setup.state.pieces)
    a._setup.state.pieces[1] = b"not published"
    group.fail_over(copy)
    eventually(lambda: a.term > 1 and a.role == "primary" and b.in_sync and b.term == a.term)
    eventually(lambda: a._setup.lease.held)
    assert b._setup.state.pieces == published
    assert a.publish().what == "patch"
    has(b, a._setup.state.pieces)


def test_bodies_fit_records() -> None:
    assert {len(body) <= BODY_BYTES_MAX for body in cut(noise(900 * KIB))} == {True}


# --- certifying, and forks --------------------------------------------------------------------------------------------


def saved(group: Group, *nodes: Node) -> None:
    eventually(lambda: len({node.position for node in nodes}) == 1)
    for node in nodes:
        node._running.replica.flush()


def certified(group: Group, *nodes: Node) -> Certificate:
    return certify(MemoryLog(group.server, "g"), [node.data_dir for node in nodes], make_state=Text)


def patched_twice(group: Group, log: FaultyLog | None = None) -> tuple[Node, Node]:
    """A group that published something whole, a patch of three records, and one of one."""
    a = group.primary("a", state=Text(pieces(2000 * KIB)), log=log)
    b = group.node("b", state=Text())
    a.publish()
    a._setup.state.pieces[4:18] = pieces(700 * KIB, seed=77)
    a.publish()
    a._setup.state.pieces[0] = b"changed"
    a.publish()
    saved(group, a, b)
    return a, b


def test_patches_are_certified(group: Group) -> None:
    a, b = patched_twice(group)
    found = certified(group, a, b)
    assert found.log.change_count == 4
    assert found.equal_nodes == [["a", "b"]]
    assert {node.digest for node in found.nodes} == {digest_of_pieces(a._setup.state.pieces)}


def test_a_patch_that_does_not_start_from_the_one_before_is_a_violation(group: Group) -> None:
    a, _ = patched_twice(group)
    a._setup.state.pieces[0] = b"changed again"
    whole = a._running.replica.whole
    assert whole is not None
    made = whole.make(a._setup.state.snapshot)
    assert made is not None
    assert made.patch is not None
    for _ in range(2):  # the second one starts from what the first one started from
        (body,) = cut(made.patch)
        with a._running.replica.write_lock:
            record = a._running.replica.node_state.change(codec=CODEC, body=body, digest=digest_of(body), count=1, at=1)
            assert a._setup.log.append(record).code is Code.OK
            a._running.replica.known.adopt(a._running.replica.node_state.fold(record)[1])
    with pytest.raises(Violation, match="starts from"):
        certified(group)


def test_a_fork_of_patches_is_exported_as_a_whole_state(group: Group) -> None:
    a, _ = patched_twice(group)
    path = a._running.replica.saved.checkpoint.write_fork("for a test", a.position.id._replace(n=1))
    fork = forks.read(path)
    assert fork.divergent_change_count == 4
    assert [(change.change["part_index"], change.change["part_count"]) for change in forks.divergent(fork)] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (0, 1),
    ]
    with pytest.raises(forks.InSnapshot):
        forks.export(fork)
    behind = a._running.replica.saved.checkpoint.write_fork("for a test", a.position.id._replace(n=a.position.id.n - 2))
    with pytest.raises(forks.Patched, match="--state"):
        forks.export(forks.read(behind))
    exported = [base64.b64decode(line["piece_base64"]) for line in forks.export_state(fork)]
    assert exported == a._setup.state.pieces
