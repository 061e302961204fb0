"""What carriers, OCNs, agreements and clients may look like."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from proxy.registry.model import (
    Agreement,
    Carrier,
    Client,
    OcnOwnership,
    RegistryError,
    check_ocn,
    day_us,
    parse_networks,
)


@pytest.mark.parametrize("ocn", ["", "123", "12345", "123a", "12 4", "none", "unmapped", "１２３４", "12-4"])
def test_what_is_no_ocn(ocn: str) -> None:
    with pytest.raises(RegistryError, match="OCN"):
        check_ocn(ocn)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a" * 64, "a/b", "ä", "a.b", "a\n"])
def test_what_is_no_carrier_id(name: str) -> None:
    with pytest.raises(RegistryError, match="carrier id"):
        Carrier(name, "Example Carrier")


@pytest.mark.parametrize("name", ["", " x", "x\n", "x" * 201, "a\x00b", "a\u202eb"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(RegistryError):
        Carrier("a", name)
    with pytest.raises(RegistryError):
        Agreement("ICA-1", "a", date(2020, 1, 1), None, name)
    with pytest.raises(RegistryError):
        Agreement(name, "a", date(2020, 1, 1), None, "s. 9")


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (date(2020, 1, 2), date(2020, 1, 2)),
        (date(2020, 1, 2), date(2020, 1, 1)),
        (date(1900, 1, 1), None),
        (date(2020, 1, 1), date(9999, 1, 1)),
    ],
)
def test_what_is_no_period(first: date, end: date | None) -> None:
    with pytest.raises(RegistryError):
        OcnOwnership("123A", "a", first, end)
    with pytest.raises(RegistryError):
        Agreement("ICA-1", "a", first, end, "s. 9")


def test_a_period_in_microseconds() -> None:
    assert day_us(date(1970, 1, 2)) == 86_400_000_000
    item = OcnOwnership("123A", "a", date(2026, 1, 1), date(2026, 2, 1))
    assert (item.from_us, item.to_us) == (1_767_225_600_000_000, 1_769_904_000_000_000)
    assert OcnOwnership("123A", "a", date(2026, 1, 1)).to_us is None


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "A"},
        {"client_id": "a" * 64},
        {"networks": ()},
        {"jwks": ({},) * 9},
        {"requests_per_minute": 0},
        {"rows_per_day": 0},
    ],
)
def test_what_is_no_client(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "client_id": "billing-a",
        "carrier_id": "a",
        "jwks": ({},),
        "networks": parse_networks(["127.0.0.1"]),
    }
    Client(**good)
    with pytest.raises(RegistryError):
        Client(**{**good, **change})


def test_networks() -> None:
    assert [str(n) for n in parse_networks(["192.0.2.1", "2001:db8::/32", "192.0.2.1"])] == [
        "192.0.2.1/32",
        "2001:db8::/32",
    ]
    for text in ("192.0.2.1/24", "x", "", "192.0.2.0/33"):
        with pytest.raises(RegistryError, match="network"):
            parse_networks([text])
