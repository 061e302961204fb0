"""deploy/docs/legal.md says what the data says."""

from __future__ import annotations

from proxy.legal.targets import read_guarded
from proxy.policy.instruments import INSTRUMENTS
from proxy.policy.process import AUTHORITY_MEANS, FACT_MEANS, Authority, Fact
from tests.support.legaldocs import PAGE, SECTIONS, written


def test_the_tables_are_the_data_s() -> None:
    """To write them anew: ``python -m tests.support.legaldocs``."""
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page


def test_a_change_of_the_data_would_show() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in SECTIONS:
        assert written(page.replace(f"<!-- {name} -->\n|", f"<!-- {name} -->\n| x |", 1)) == page


def test_each_instrument_authority_and_fact_is_explained() -> None:
    assert set(FACT_MEANS) == set(Fact)
    assert set(AUTHORITY_MEANS) == set(Authority)
    page = PAGE.read_text(encoding="utf-8")
    for word in (*INSTRUMENTS, *Authority, *Fact):
        assert f"| `{word}`" in page


def test_the_example_of_guarded_numbers_is_one() -> None:
    page = PAGE.read_text(encoding="utf-8")
    block = [line[4:] for line in page.split("### Police, courts, counsel")[1].splitlines() if line.startswith("    ")]
    guarded = read_guarded(block)
    assert (len(guarded.numbers), len(guarded.prefixes)) == (2, 1)
