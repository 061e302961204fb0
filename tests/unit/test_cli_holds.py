"""`tollgate hold`, `report` and `keys shred`: what they ask the gateway, and how they show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli import hold, report
from proxy.cli.main import main
from proxy.client import staff
from proxy.legal.holds import HoldState, preserve

HOLD = "H-AAAAAAAAAA"
ASKED: list[tuple[str, str, Any]] = []
ANSWERS: dict[str, Any] = {}


class Session:
    """Answers what a test put there, and remembers what it was asked."""

    @classmethod
    def open(cls, home: Path | None = None) -> Session:
        return cls()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, str] | None = None
    ) -> staff.Reply:
        ASKED.append((method, path, params if json is None else json))
        return staff.Reply(200, {}, _written(ANSWERS[path]))


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    ASKED.clear()
    ANSWERS.clear()
    for module in (hold, report, staff):
        monkeypatch.setattr(module, "StaffSession", Session)


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, result.output
    return result


def shown() -> dict[str, Any]:
    now = datetime(2026, 11, 5, tzinfo=UTC)
    return preserve(HOLD, "C-AAAAAAAAAA", now, "UTC", (202401, 202401), "x\x1b[2Jy").as_json(now)


def test_holds() -> None:
    ANSWERS["/v1/holds"] = shown()
    result = run("hold", "new", "C-AAAAAAAAAA")
    assert ASKED.pop() == ("POST", "/v1/holds", {"case": "C-AAAAAAAAAA"})
    assert HOLD in result.output
    assert "\x1b" not in result.output
    assert json.loads(run("hold", "new", "C-AAAAAAAAAA", "--json").stdout)["state"] == HoldState.PENDING
    ASKED.clear()
    ANSWERS["/v1/holds"] = {"holds": [shown()]}
    for words, asked in (
        (["list", "--live"], {"live": "true"}),
        (["list", "--case", "C-AAAAAAAAAA"], {"case": "C-AAAAAAAAAA"}),
        (["due", "--days", "7"], {"due": "7"}),
    ):
        assert HOLD in run("hold", *words).output
        assert ASKED.pop() == ("GET", "/v1/holds", asked)
    ANSWERS[f"/v1/holds/{HOLD}/renew"] = ANSWERS[f"/v1/holds/{HOLD}/supersede"] = shown()
    run("hold", "renew", HOLD, "--reason", "renewed request")
    assert ASKED.pop() == ("POST", f"/v1/holds/{HOLD}/renew", {"reason": "renewed request"})
    run("hold", "supersede", HOLD, "--by", "C-BBBBBBBBBB")
    assert ASKED.pop() == ("POST", f"/v1/holds/{HOLD}/supersede", {"case": "C-BBBBBBBBBB"})
    ANSWERS["/v1/changes"] = {"change_id": "0193"}
    assert "0193" in run("hold", "lift", HOLD, "--reason", "withdrawn").output
    assert ASKED.pop()[2] == {"kind": "hold.lift", "payload": {"hold": HOLD}, "reason": "withdrawn"}
    run("hold", "show", "../../v1/cases", code=2)
    assert ASKED == []


def test_reports() -> None:
    counts = dict.fromkeys(("received", "selectors", "deficient", "objected", "delivered", "preserved"), 3)
    letters = {"received": "0-249", "selectors": "0-249", "citation": "50 U.S.C. 1874(a)(3)"}
    ANSWERS["/v1/reports/transparency"] = {
        "instruments": {"subpoena": counts}, "national_security_letters": letters, "unread": 2,
    }  # fmt: skip
    period = ("--from", "2026-01-01", "--to", "2026-07-01", "--reason", "half")
    result = run("report", "transparency", *period)
    assert ASKED.pop()[2] == {"from": "2026-01-01", "to": "2026-07-01", "reason": "half", "bands": "250"}
    assert "0-249" in result.output
    assert "2 entries could not be read" in result.output
    run("report", "transparency", *period, "--bands", "none", "--for-others")
    assert ASKED.pop()[2]["audience"] == "others"
    item = {
        "recipient": "carrier-a\x1b[1m",
        "purpose": "billing",
        "basis": "b",
        "accesses": 1,
        "records": 2,
        "classes": [],
    }
    ANSWERS["/v1/reports/disclosures"] = {"recipients": [item], "unread": 0}
    result = run("report", "disclosures", *period)
    assert "carrier-a" in result.output
    assert "\x1b" not in result.output


def test_shredding_is_proposed_here_and_carried_out_elsewhere() -> None:
    ANSWERS["/v1/changes"] = {"change_id": "0193"}
    result = run("keys", "shred", "2024-01", "tags", "timing", "--reason", "old")
    assert "tollgate keys shred --carry-out 0193" in result.output
    payload = {"month": 202401, "classes": ["timing", "tags"]}
    assert ASKED.pop()[2] == {"kind": "store.shred", "payload": payload, "reason": "old"}
    now = datetime.now(UTC)
    young = run("keys", "shred", f"{now:%Y-%m}", "timing", "--reason", "young", code=1)
    assert "18 months" in young.output
    for words in (
        ["2024-13", "timing", "--reason", "x"],
        ["2024-01", "--reason", "x"],
        ["2024-01", "log_actor", "--reason", "x"],
        ["2024-01", "timing"],
        ["2024-01", "timing", "--carry-out", "01a1ffea-1f63-7134-98cb-992df3ee8545"],
    ):
        run("keys", "shred", *words, code=2)
    assert ASKED == []
