"""The carrier's client against a scripted server on real sockets: proofs, nonces, broken connections, false records."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from proxy.client import keys, transfer
from proxy.client.forms import Form
from proxy.client.session import ConnectionLost, DiscoveryError, Refused, Session
from proxy.client.transfer import NotProven, Pull, Question, Result
from tests.support.pullserver import PullServer, Script, first_rows, running

CLIENT = "example-a"
WINDOW = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "direction": "both"}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_SETTLE_PAUSE_S", 0.01)
    monkeypatch.setattr(Pull, "_patience", staticmethod(_impatient(Pull._patience)))


def _impatient(patience: Any) -> Any:
    return lambda error, idle: patience(error, idle) * 0


class Case:
    """A server, a client's keys and a folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.key, self.proof = keys.generate(), keys.generate()
        self.notes: list[str] = []
        self.server: PullServer

    async def pull(self, script: Script, form: Form = Form.NDJSON, name: str = "out", kind: str = "cdrs") -> Result:
        async with running(script, CLIENT, self.key, self.folder / "tls") as self.server:
            return await self.again(form, name, kind)

    async def again(self, form: Form = Form.NDJSON, name: str = "out", kind: str = "cdrs") -> Result:
        server = self.server
        parameters = WINDOW if kind == "cdrs" else {**WINDOW, "number": "+12125550123"}
        async with Session(server.issuer, CLIENT, self.key, self.proof, ca=self.folder / "tls" / "ca.pem") as session:
            question = Question(kind, server.issuer, CLIENT, form, parameters)
            return await Pull(session, question, self.folder / name, self._note).run()

    def _note(self, *, rows: int, received: int, note: str = "") -> None:
        if note:
            self.notes.append(note)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


async def test_a_whole_pull_is_proven_and_leaves_only_the_file(case: Case) -> None:
    result = await case.pull(Script())
    assert first_rows(case.folder / "out") == list(range(95))
    assert (result.rows, len(result.accesses), result.complete_to) == (95, 1, "mark-7")
    assert sorted(p.name for p in case.folder.iterdir()) == ["out", "tls"]
    assert case.server.requests == [WINDOW]


@pytest.mark.parametrize("coding", ["zstd", "identity"])
@pytest.mark.parametrize("form", list(Form))
async def test_every_form_survives_two_breaks_without_loss_or_repeat(case: Case, form: Form, coding: str) -> None:
    cuts: list[int | None] = [0, 0, None] if form is Form.PARQUET else [3, 2, None]
    result = await case.pull(Script(cut_after_blocks=cuts, coding=coding), form)
    out = case.folder / "out"
    assert result.rows == 95
    assert _ids(out, form) == list(range(95))
    assert case.notes
    # A text form goes on from its checkpoints; Parquet begins again, for a file without its end is of no use.
    cursors = [r.get("cursor") for r in case.server.requests]
    assert cursors == ([None] * 3 if form is Form.PARQUET else [None, "cursor-30", "cursor-50"])


def _ids(path: Path, form: Form) -> list[int]:
    if form is Form.NDJSON:
        return first_rows(path)
    if form is Form.CSV:
        with path.open(newline="") as file:
            return [int(row["record_id"]) for row in csv.DictReader(file)]
    if form is Form.ARROW:
        with path.open("rb") as file:
            return pa.ipc.open_stream(file).read_all()["record_id"].to_pylist()
    return pa.parquet.read_table(path)["record_id"].to_pylist()


async def test_what_the_line_lost_though_the_server_sent_it_is_asked_for_again(case: Case) -> None:
    result = await case.pull(Script(lost_after_blocks=[4, None]))
    assert first_rows(case.folder / "out") == list(range(95))
    assert [r.get("cursor") for r in case.server.requests] == [None, "cursor-40"]
    assert len(result.accesses) == 2


@pytest.mark.parametrize("form", list(Form))
async def test_an_answer_cut_by_the_servers_limit_is_continued(case: Case, form: Form) -> None:
    result = await case.pull(Script(limit_rows=[40, 40, None]), form)
    assert (result.rows, len(result.accesses)) == (95, 3)
    assert _ids(case.folder / "out", form) == list(range(95))


async def test_an_interrupted_process_goes_on_where_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Script(cut_after_blocks=[3, None]), CLIENT, case.key, case.folder / "tls") as case.server:
        monkeypatch.setattr(transfer, "_ATTEMPTS", 0)
        with pytest.raises(ConnectionLost, match="localhost") as caught:
            await case.again()
        assert "run the same command again" in caught.value.hint
        assert not (case.folder / "out").exists()
        result = await case.again()
    assert result.rows == 95
    assert first_rows(case.folder / "out") == list(range(95))
    assert [r.get("cursor") for r in case.server.requests] == [None, "cursor-30"]


async def test_without_checkpoints_the_part_is_asked_for_again(case: Case) -> None:
    result = await case.pull(Script(cut_after_blocks=[3, None], checkpoints=False))
    assert first_rows(case.folder / "out") == list(range(95))
    assert len(result.accesses) == 1


async def test_an_access_without_outcome_is_not_taken_as_complete(case: Case) -> None:
    script = Script(cut_after_blocks=[3, None], no_outcome=True)
    async with running(script, CLIENT, case.key, case.folder / "tls") as case.server:
        task = case.again()
        # The whole second answer also stays without outcome: the pull must not end as proven.
        script.cut_after_blocks = [3] * 20
        with pytest.raises(ConnectionLost):
            await task
    assert not (case.folder / "out").exists()


async def test_it_waits_for_the_outcome(case: Case) -> None:
    result = await case.pull(Script(outcome_after=3))
    assert result.rows == 95


@pytest.mark.parametrize("wrong", ["wrong_sha256", "wrong_rows"])
async def test_a_record_that_differs_is_not_proven(case: Case, wrong: str) -> None:
    with pytest.raises(NotProven, match="recorded"):
        await case.pull(Script(**{wrong: True}))  # type: ignore[arg-type]
    assert not (case.folder / "out").exists()
    assert (case.folder / "out.pull" / "0000").exists()


async def test_a_damaged_part_on_disk_is_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Script(cut_after_blocks=[3, None]), CLIENT, case.key, case.folder / "tls") as case.server:
        monkeypatch.setattr(transfer, "_ATTEMPTS", 0)
        with pytest.raises(ConnectionLost):
            await case.again()
        part = case.folder / "out.pull" / "0000"
        part.write_bytes(part.read_bytes().replace(b'"record_id":7}', b'"record_id":8}'))
        with pytest.raises(NotProven, match="bytes are not what"):
            await case.again()


async def test_an_unfinished_pull_of_another_question_is_left_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Script(cut_after_blocks=[3]), CLIENT, case.key, case.folder / "tls") as case.server:
        monkeypatch.setattr(transfer, "_ATTEMPTS", 0)
        with pytest.raises(ConnectionLost):
            await case.again()
        with pytest.raises(transfer.ClientError, match="asked something else"):
            await case.again(Form.CSV)
    assert (case.folder / "out.pull" / "0000").exists()


async def test_a_token_that_ran_out_is_replaced_once(case: Case) -> None:
    result = await case.pull(Script(revoke_tokens=1))
    assert result.rows == 95


async def test_a_token_refused_twice_is_a_refusal(case: Case) -> None:
    with pytest.raises(Refused) as caught:
        await case.pull(Script(revoke_tokens=2))
    assert caught.value.status == 401


async def test_busy_is_waited_for(case: Case) -> None:
    result = await case.pull(Script(busy=2))
    assert result.rows == 95


async def test_a_refusal_says_reason_citation_and_access(case: Case) -> None:
    body = {"title": "The access is denied", "reason": "ocn.not_yours", "citation": "47 U.S.C. 222(c)(1)"}
    with pytest.raises(Refused, match=r"403.*ocn\.not_yours.*222\(c\)\(1\)") as caught:
        await case.pull(Script(refuse=(403, body, {"Access-Id": "abc"})))
    assert caught.value.access_id == "abc"
    assert sorted(p.name for p in case.folder.iterdir()) == ["tls"]


async def test_a_wrong_clock_is_named(case: Case) -> None:
    refuse = (401, {"error": "invalid_client"}, {})
    with pytest.raises(Refused) as caught:
        await case.pull(Script(refuse=refuse, clock_offset_s=3600))
    assert "behind" in caught.value.hint


async def test_another_issuer_gets_no_assertion(case: Case) -> None:
    with pytest.raises(DiscoveryError, match="says it is the issuer"):
        await case.pull(Script(issuer_says="https://localhost:1/"))
    assert case.server.accesses == {}


async def test_an_unknown_authority_is_refused(case: Case) -> None:
    async with (
        running(Script(), CLIENT, case.key, case.folder / "tls") as server,
        Session(server.issuer, CLIENT, case.key, case.proof) as session,
    ):
        with pytest.raises(DiscoveryError, match="certificate") as caught:
            await session.metadata()
    assert "--ca" in caught.value.hint


async def test_plain_http_is_refused(case: Case) -> None:
    async with Session("http://localhost:1", CLIENT, case.key, case.proof) as session:
        with pytest.raises(DiscoveryError, match="https"):
            await session.token()


async def test_search_sends_the_number_in_the_body_only(case: Case) -> None:
    result = await case.pull(Script(limit_rows=[40]), kind="search")
    assert result.rows == 95
    assert case.server.requests[0]["number"] == "+12125550123"
    assert case.server.requests[1] == {"cursor": "cursor-40"}
