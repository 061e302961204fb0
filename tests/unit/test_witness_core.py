"""A witness's answers, and what it keeps: it never signs two trees of which neither continues the other."""

from __future__ import annotations

import base64
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.checkpoint import Checkpoint
from keys.notes import NOTE_MAX, Note, NoteError, VerifierKey, sign
from proxy.ledger import tree
from proxy.ledger.addcheckpoint import BODY_MAX, AddCheckpoint
from proxy.witness import core
from proxy.witness import state as state_module
from proxy.witness.core import Accepted, Refused, Status
from proxy.witness.service import Witness
from proxy.witness.state import State, StateError, create, load_key
from tests.support.witness import ORIGIN, Log


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    create(tmp_path / "w", "witness.example.net/w1")
    return tmp_path / "w"


@pytest.fixture
def log() -> Log:
    return Log().grow(40)


def witness(state: State, *logs: Log, clock: Clock | None = None) -> Witness:
    return Witness(state, {each.origin: (each.signer.key,) for each in logs}, clock or Clock())


def accepted(answer: Accepted | Refused) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer


def refused(answer: Accepted | Refused, status: int) -> Refused:
    assert isinstance(answer, Refused), answer
    assert answer.status == status
    return answer


def test_the_request_of_the_specification() -> None:
    """tlog-witness, "Example request body"."""
    text = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
        "\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
        "+xeMcTOAYQ8=\n"
        "— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovn"
        "zv++qbSzm9Q=\n"
    )
    request = AddCheckpoint.parse(text.encode())
    assert (request.old_size, len(request.proof), len(request.note.signatures)) == (20852014, 4, 2)
    assert bytes(request) == text.encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b"",
        lambda b: b.replace(b"old 5\n", b"old 05\n"),
        lambda b: b.replace(b"old 5\n", b"old -5\n"),
        lambda b: b.replace(b"old 5\n", b"old  5\n"),
        lambda b: b.replace(b"old 5\n", b"old 5 \n"),
        lambda b: b.replace(b"old 5\n", b"old 5\r\n"),
        lambda b: b.replace(b"old 5\n", b"new 5\n"),
        lambda b: b.replace(b"old 5\n", b""),
        lambda b: b.replace(b"old 5\n", b"old 5\nAAAA\n"),
        lambda b: b.replace(b"old 5\n", b"old 5\n" + base64.b64encode(bytes(32)).rstrip(b"=") + b"\n"),
        lambda b: b.replace(b"old 5\n", b"old 5\n" + (base64.b64encode(bytes(32)) + b"\n") * 64),
        lambda b: b.replace(b"old 5\n", b"old 9999999999999999999\n"),
        lambda b: b.replace(b"old 5\n", "old ٥\n".encode()),
        lambda b: b.replace(b"\n\n", b"\n", 1),
        lambda b: b[:-1],
        lambda b: b + b"\n",
        lambda b: b + b"x" * BODY_MAX,
        lambda b: b.replace(b"\n40\n", b"\n040\n"),
        lambda b: b.replace(b"\n40\n", b"\n40\nmore\n\n"),
        lambda b: b.replace(b"\n40\n", b"\n\x00\n"),
    ],
)
def test_a_malformed_request(log: Log, change: object) -> None:
    body = log.ask(5)
    changed = change(body)  # type: ignore[operator]
    assert changed != body
    refused_with = core.read(changed, {ORIGIN: (log.signer.key,)})
    assert isinstance(refused_with, Refused)
    assert refused_with.status == 400


def test_a_checkpoint_too_long_to_be_kept_is_refused(log: Log) -> None:
    checkpoint = Checkpoint(ORIGIN, 40, tree.root(log.leaves), ("x" * core.TEXT_MAX,))
    body = bytes(AddCheckpoint(0, (), sign(checkpoint.text, log.signer)))
    assert len(body) < NOTE_MAX
    assert isinstance(answer := core.read(body, {ORIGIN: (log.signer.key,)}), Refused)
    assert answer.status == 400


def test_a_log_that_grows_is_cosigned_each_time(directory: Path, log: Log) -> None:
    clock = Clock()
    with State(directory) as state:
        asked = witness(state, log, clock=clock)
        assert asked.latest(ORIGIN) is None
        old = 0
        for size in (1, 1, 2, 7, 8, 9, 32, 33, 40):
            answer = accepted(asked.add_checkpoint(log.ask(old, size)))
            (found,) = Note(log.checkpoint(size).text, (answer.signature,)).verify([state.cosigner.key])
            assert found.time == clock.now
            held = asked.latest(ORIGIN)
            assert held is not None
            assert len(held.verify([state.cosigner.key, log.signer.key])) == 2
            assert Checkpoint.parse(held.text) == log.checkpoint(size)
            old, clock.now = size, clock.now + 1


def test_the_empty_tree(directory: Path) -> None:
    log = Log()
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0)))
        accepted(asked.add_checkpoint(log.ask(0)))
        lie = Checkpoint(ORIGIN, 0, bytes(32))
        refused(asked.add_checkpoint(bytes(AddCheckpoint(0, (), sign(lie.text, log.signer)))), 409)
        accepted(asked.add_checkpoint(log.grow(3).ask(0)))


def test_400_an_old_size_beyond_the_checkpoint(directory: Path, log: Log) -> None:
    with State(directory) as state:
        body = bytes(AddCheckpoint(8, (), log.note(7)))
        refused(witness(state, log).add_checkpoint(body), 400)


def test_404_a_log_nobody_named(directory: Path, log: Log) -> None:
    with State(directory) as state:
        other = Log("other.example.com/log", 2).grow(3)
        refused(witness(state, log).add_checkpoint(other.ask(0)), 404)
        assert witness(state, log).latest("other.example.com/log") is None


def test_403_a_checkpoint_nobody_trusted_signed(directory: Path, log: Log) -> None:
    thief = Log(ORIGIN, 9, log.leaves)
    with State(directory) as state:
        asked = witness(state, log)
        refused(asked.add_checkpoint(thief.ask(0)), 403)
        # A good signature does not help where another line in the log's name is wrong.
        line = thief.note().signatures[0]
        forged = replace(line, id=log.signer.key.id)
        request = log.request(0)
        both = replace(request, note=request.note.with_signatures([forged]))
        refused(asked.add_checkpoint(bytes(both)), 403)
        # Lines of strangers do not matter, and are not kept.
        both = replace(request, note=request.note.with_signatures([line]))
        accepted(asked.add_checkpoint(bytes(both)))
        held = asked.latest(ORIGIN)
        assert held is not None
        assert line not in held.signatures


def test_409_says_the_size_held(directory: Path, log: Log) -> None:
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0, 17)))
        for old in (0, 3, 16, 18):
            assert refused(asked.add_checkpoint(log.ask(old)), 409).held == 17
        assert refused(asked.add_checkpoint(log.ask(0, 9)), 409).held == 17
        assert refused(asked.add_checkpoint(log.ask(9, 9)), 409).held == 17
        accepted(asked.add_checkpoint(log.ask(17)))


def test_409_another_root_for_a_size_is_kept_as_evidence(directory: Path, log: Log) -> None:
    fork = log.fork(20).grow(20, "rewritten")
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0)))
        for old in (40, 20, 0):
            assert refused(asked.add_checkpoint(fork.ask(old)), 409).held == 40
        (evidence,) = (directory / "evidence").iterdir()  # three questions, one checkpoint
        kept = AddCheckpoint.parse(evidence.read_bytes())
        kept.note.verify([log.signer.key])
        assert Checkpoint.parse(kept.note.text) == fork.checkpoint()


def test_422_a_tree_that_does_not_continue(directory: Path, log: Log) -> None:
    fork = log.fork(20).grow(30, "rewritten")
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0)))
        refused(asked.add_checkpoint(fork.ask(40)), 422)
        more = log.fork(40).grow(5)
        honest = more.request(40)
        for proof in ((), honest.proof[:-1], (*honest.proof, bytes(32)), honest.proof[::-1]):
            refused(asked.add_checkpoint(bytes(replace(honest, proof=proof))), 422)
        refused(asked.add_checkpoint(bytes(replace(log.request(40), proof=(bytes(32),)))), 422)
        accepted(asked.add_checkpoint(bytes(honest)))


def test_422_a_proof_where_there_is_nothing_to_prove(directory: Path, log: Log) -> None:
    with State(directory) as state:
        refused(witness(state, log).add_checkpoint(bytes(replace(log.request(0), proof=(bytes(32),)))), 422)


def test_evidence_has_a_bound(directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "EVIDENCE_MAX", 2)
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0)))
        for number in range(4):
            refused(asked.add_checkpoint(log.fork(3).grow(40, f"rewritten {number}").ask(40)), 422)
        assert len(list((directory / "evidence").iterdir())) == 2


def test_strangers_cannot_fill_the_room_for_evidence(
    directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good checkpoints with wrong proofs, which anybody can send, leave the proof of a fork its place."""
    monkeypatch.setattr(state_module, "EVIDENCE_MAX", 3)
    folder = directory / "evidence"
    with State(directory) as state:
        asked = witness(state, log)
        for n in range(5):
            refused(asked.add_checkpoint(bytes(replace(log.request(0, n + 1), proof=(bytes([n] * 32),)))), 422)
        assert not list(folder.iterdir()), "nothing is held that it could contradict"
        accepted(asked.add_checkpoint(log.ask(0, 20)))
        for n in range(5):
            refused(asked.add_checkpoint(bytes(replace(log.request(20, 20), proof=(bytes([n] * 32),)))), 422)
        assert not list(folder.iterdir()), "it is the very checkpoint that is held"
        for n in range(5):
            refused(asked.add_checkpoint(bytes(replace(log.request(20, 30), proof=(bytes([n] * 32),)))), 422)
        assert len(list(folder.iterdir())) == 1, "one for each checkpoint"
        for size in range(21, 40):
            refused(asked.add_checkpoint(bytes(replace(log.request(20, size), proof=(bytes(32),)))), 422)
        assert len(list(folder.iterdir())) == 3
        fork = log.fork(10).grow(10, "rewritten")
        assert refused(asked.add_checkpoint(fork.ask(20)), 409).evidence is core.Evidence.FORKED
        (kept,) = folder.glob("forked-*")
        assert Checkpoint.parse(AddCheckpoint.parse(kept.read_bytes()).note.text) == fork.checkpoint()


def test_each_log_has_its_own_room_for_evidence(directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "EVIDENCE_MAX", 1)
    other = Log("other.example.com/log", 6).grow(20)
    with State(directory) as state:
        asked = witness(state, log, other)
        for each in (log, other):
            accepted(asked.add_checkpoint(each.ask(0, 20)))
            for word in ("a", "b"):
                refused(asked.add_checkpoint(each.fork(10).grow(10, word).ask(20)), 409)
        assert len(list((directory / "evidence").iterdir())) == 2


def test_two_keys_of_one_log_and_two_logs(directory: Path, log: Log) -> None:
    renewed, other = Log(ORIGIN, 5, log.leaves), Log("other.example.com/log", 6).grow(4)
    with State(directory) as state:
        known = {ORIGIN: (log.signer.key, renewed.signer.key), other.origin: (other.signer.key,)}
        asked = Witness(state, known, Clock())
        accepted(asked.add_checkpoint(log.ask(0, 10)))
        accepted(asked.add_checkpoint(other.ask(0)))
        accepted(asked.add_checkpoint(renewed.ask(10)))
        assert refused(asked.add_checkpoint(other.ask(0)), 409).held == 4


def test_extension_lines_of_other_logs_are_cosigned_with_the_rest(directory: Path, log: Log) -> None:
    checkpoint = Checkpoint(ORIGIN, 40, tree.root(log.leaves), ("an extension",))
    with State(directory) as state:
        answer = accepted(
            witness(state, log).add_checkpoint(bytes(AddCheckpoint(0, (), sign(checkpoint.text, log.signer))))
        )
        Note(checkpoint.text, (answer.signature,)).verify([state.cosigner.key])


def test_time_does_not_run_backwards(directory: Path, log: Log) -> None:
    clock = Clock()
    with State(directory) as state:
        asked = witness(state, log, clock=clock)
        first = accepted(asked.add_checkpoint(log.ask(0, 5)))
        clock.now -= 3600
        second = accepted(asked.add_checkpoint(log.ask(5, 6)))
        assert second.held.time == first.held.time == 1_800_000_000


def test_what_was_signed_is_remembered(directory: Path, log: Log) -> None:
    with State(directory) as state:
        accepted(witness(state, log).add_checkpoint(log.ask(0, 20)))
    with State(directory) as state:
        asked = witness(state, log)
        asked.check()
        assert refused(asked.add_checkpoint(log.ask(0)), 409).held == 20
        accepted(asked.add_checkpoint(log.ask(20)))


@pytest.mark.parametrize("step", ["write", "rename", "sync"])
def test_a_failure_at_any_step_gives_no_signature_and_is_survived(
    directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Old or new is held, and the log gets its cosignature from whichever it is told."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0, 20)))
        for _ in range(2):  # also twice in a row
            with monkeypatch.context() as broken:
                if step == "rename":
                    broken.setattr(Path, "rename", fail)
                else:
                    broken.setattr(state_module, "_write_new" if step == "write" else "_sync", fail)
                held = asked.latest(ORIGIN)
                assert held is not None
                with pytest.raises(OSError, match="No space"):
                    asked.add_checkpoint(log.ask(Checkpoint.parse(held.text).size))
        held = asked.latest(ORIGIN)
        assert held is not None
        size = Checkpoint.parse(held.text).size
        assert size == (40 if step == "sync" else 20)
    with State(directory) as state:
        accepted(witness(state, log).add_checkpoint(log.ask(size)))


def test_it_is_on_disk_before_it_is_answered(directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is synced before it takes the name, and the name before the answer."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: int) -> None:
        done.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    with State(directory) as state:
        asked = witness(state, log)
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "rename", noted_rename)
        accepted(asked.add_checkpoint(log.ask(0)))
    assert done == ["file", "rename", "directory"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other log", "unsigned"])
def test_a_damaged_memory_signs_nothing(directory: Path, log: Log, damage: str) -> None:
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0, 20)))
        (path,) = (directory / "logs").iterdir()
        data = path.read_bytes()
        other = Log("other.example.com/log", 2).grow(3).note()
        changed = {
            "cut": data[:-10],
            "flip": data.replace(b"\n20\n", b"\n10\n"),
            "empty": b"",
            "other log": str(
                other.with_signatures([state.cosigner.cosign(other.text, 5)])
            ).encode(),
            "unsigned": str(log.note(10)).encode(),
        }[damage]  # fmt: skip
        path.write_bytes(changed)
        with pytest.raises(StateError, match="will not cosign"):
            asked.add_checkpoint(log.ask(20))
        with pytest.raises(StateError, match="will not cosign"):
            asked.check()


def test_one_process_at_a_time(directory: Path) -> None:
    with State(directory), pytest.raises(StateError, match="another witness"), State(directory):
        pass
    with State(directory):
        pass


def test_a_key_is_made_once_and_read_back(directory: Path) -> None:
    key = load_key(directory).key
    assert VerifierKey.parse(str(key)) == key
    with pytest.raises(StateError, match="already"):
        create(directory, "witness.example.net/w2")
    assert load_key(directory).key == key
    assert (directory / "witness.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(StateError):
        create(tmp_path / "w", name)
    assert not (tmp_path / "w" / "witness.key").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: t[:-6] + "\n",
        lambda t: t.replace("/w1", "/w2"),
        lambda t: t.replace("+B", "+C", 1),
        lambda t: t.replace("+", " "),
        lambda t: "é" + t,
    ],
)
def test_a_damaged_key_is_refused_and_not_shown(directory: Path, change: object) -> None:
    path = directory / "witness.key"
    text = path.read_text()
    path.write_text(change(text))  # type: ignore[operator]
    with pytest.raises(StateError, match="damaged") as caught:
        load_key(directory)
    assert text.strip().split("+", 4)[4][4:] not in str(caught.value)


def test_a_key_that_others_may_read_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "witness.key").chmod(0o640)
    with pytest.raises(StateError, match="read by others"):
        load_key(directory)
    with pytest.raises(StateError, match="no witness in"):
        load_key(tmp_path)


def test_racing_requests_never_take_it_back(directory: Path, log: Log) -> None:
    """Many at once, for all sizes, from whatever is held: sizes only grow, and every cosigned root is the log's own."""
    signed: list[Accepted] = []
    with State(directory) as state:
        asked = witness(state, log)

        def client(start: int) -> None:
            old = 0
            for size in range(start, 41):
                answer = asked.add_checkpoint(log.ask(min(old, size), size))
                if isinstance(answer, Accepted):
                    signed.append(answer)
                    old = size
                elif answer.held is not None:
                    old = answer.held

        threads = [threading.Thread(target=client, args=(n,)) for n in (1, 2, 3, 5, 7, 11)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = asked.latest(ORIGIN)
        assert held is not None
        assert Checkpoint.parse(held.text) == log.checkpoint(40)
    assert len(signed) >= 10
    for each in signed:
        assert Checkpoint.parse(each.note.text) == log.checkpoint(each.held.size)


def test_the_race_of_the_specification(directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """tlog-witness, steps 1 to 6: the smaller checkpoint is checked first and held last."""
    with State(directory) as state:
        asked = witness(state, log)
        accepted(asked.add_checkpoint(log.ask(0, 10)))
        inside, go_on = threading.Event(), threading.Event()
        hold = State.hold

        def slow(self: State, origin: str, answer: Accepted) -> None:
            if answer.held.size == 20:
                inside.set()
                assert go_on.wait(10)
            hold(self, origin, answer)

        monkeypatch.setattr(State, "hold", slow)
        answers: dict[int, Accepted | Refused] = {}
        first = threading.Thread(target=lambda: answers.update({20: asked.add_checkpoint(log.ask(10, 20))}))
        first.start()
        assert inside.wait(10)
        second = threading.Thread(target=lambda: answers.update({30: asked.add_checkpoint(log.ask(10, 30))}))
        second.start()
        second.join(0.3)
        go_on.set()
        first.join(10)
        second.join(10)
        accepted(answers[20])
        assert refused(answers[30], 409).held == 20


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_sequence_of_requests_gets_two_trees_signed(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    """A log that lies as it likes, with its own key: what was signed is always one growing tree."""
    draw = data.draw  # type: ignore[attr-defined]
    honest = Log().grow(12)
    trees = [honest, honest.fork(5).grow(9, "a"), honest.fork(8).grow(6, "b"), Log().grow(12, "c")]
    folder = tmp_path_factory.mktemp("w") / "w"
    create(folder, "witness.example.net/w1")
    signed: list[tuple[int, bytes]] = []
    with State(folder) as state:
        asked = witness(state, honest)
        for _ in range(draw(st.integers(1, 12))):
            chosen = trees[draw(st.integers(0, 3))]
            size = draw(st.integers(0, chosen.size))
            old = draw(st.sampled_from([signed[-1][0] if signed else 0, draw(st.integers(0, 14))]))
            proven = trees[draw(st.integers(0, 3))]
            proof = proven.proof(min(old, size, proven.size), min(size, proven.size))
            answer = asked.add_checkpoint(bytes(AddCheckpoint(old, proof, chosen.note(size))))
            if isinstance(answer, Accepted):
                signed.append((answer.held.size, answer.held.root))
    if signed:
        last = next(t for t in trees if t.size >= signed[-1][0] and t.checkpoint(signed[-1][0]).root == signed[-1][1])
        for (size, root), (later, _) in zip(signed, [*signed[1:], signed[-1]], strict=True):
            assert size <= later
            assert last.checkpoint(size).root == root


def test_errors_are_of_ours_whatever_is_sent(log: Log) -> None:
    known = {ORIGIN: (log.signer.key,)}
    body = log.ask(5)
    for at in range(0, len(body), 7):
        for with_byte in (b"\xff", b"\n", b"0", b""):
            changed = body[:at] + with_byte + body[at + 1 :]
            answer = core.read(changed, known)
            if isinstance(answer, Refused):
                assert answer.status in (400, 403, 404)
                assert Status(answer.status)
    with pytest.raises(NoteError):
        AddCheckpoint.parse(b"\xff\n\n")
