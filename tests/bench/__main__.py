"""`make bench`: build the data, run each pair of rivals, print a table, write build/bench.json."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.bench import exposure, legal, logcost, logfsck, logs, measures
from tests.bench.measures import Result
from tests.bench.rivals import Psql
from tests.bench.stage import gateway, stage

BARS = {
    "pull_csv": (1.2, 2.5),
    "pull_arrow": (2.5, 5.0),
    "ingest": (2.0, 6.0),
    "ingest_small": (1.0, 4.0),
    "bytes_per_cdr": (0.33, 0.20),
    "lookup": (75.0, 25.0),
    "legal_lookup_50": (75.0, 25.0),
    "legal_bulk": (10.0, 3.0),
    "log_overhead": (1.02, 1.01),
    "log_append": (1.0, 0.0),
}
"""First bar and aim (0: none), as ratios."""


@click.command()
@click.option("--rows", default=1_100_000, show_default=True, help="Records of the main file.")
@click.option("--small-files", default=50, show_default=True, help="Files of 20,000 rows.")
@click.option("--accesses", default=10_000, show_default=True, help="Accesses that the exposure is counted of.")
@click.option("--log-entries", default=1_000_000, show_default=True, help="Entries of the log that fsck checks.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--only",
    multiple=True,
    help="ingest, pulls, lookup, log_cost, small_pull, ingest_small, exposure, log_append, fsck (ingest always), legal"
    " (not among them: its 20 million records are built once and kept under build/).",
)
@click.option("--legal-rows", default=20_000_000, show_default=True, help="Records of the legal desk's store.")
def main(
    rows: int,
    small_files: int,
    accesses: int,
    log_entries: int,
    rounds: int,
    only: tuple[str, ...],
    legal_rows: int,
) -> None:
    """Run the benchmarks."""
    results = asyncio.run(_run(rows, small_files, accesses, log_entries, rounds, set(only), legal_rows))
    table = Table(box=None)
    for name in ("name", "ours", "rival", "ratio", "first bar", "aim", "unit"):
        table.add_column(name, justify="left" if name in ("name", "unit") else "right")
    for r in results:
        bar, aim = BARS.get(r.name, (None, None))
        sign = "<=" if r.smaller else ">="
        number = lambda v: "" if v is None else f"{v:,.2f}" if v < 1000 else f"{v:,.0f}"  # noqa: E731
        bars = (f"{sign} {bar}" if bar else "", f"{sign} {aim}" if aim else "")
        table.add_row(r.name, number(r.ours), number(r.rival), number(r.ratio), *bars, r.unit)
    Console(width=110).print(table)
    out = Path("build/bench.json")
    out.parent.mkdir(exist_ok=True)
    rows_out = {r.name: {"ours": r.ours, "rival": r.rival, "ratio": r.ratio, "unit": r.unit} for r in results}
    out.write_text(json.dumps(rows_out, indent=2) + "\n")


async def _run(
    rows: int, small_files: int, accesses: int, log_entries: int, rounds: int, only: set[str], legal_rows: int
) -> list[Result]:
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        rival = "" if result.rival is None else f" against {result.rival:,.2f}: ratio {result.ratio:.2f}"
        click.echo(f"{result.name}: {result.ours:,.2f}{rival} ({result.unit})", err=True)

    if "legal" in only:
        await legal.legal(legal_rows, rounds, report)
        if only == {"legal"}:
            return results
    wanted = lambda name: not only or name in only  # noqa: E731
    async with stage("bench") as place:
        psql = Psql(place.config.database_url)
        await measures.ingest(place, psql, rows, report)
        if wanted("lookup"):
            await measures.lookup(place, 3, report)
        if wanted("log_cost"):
            await logcost.costs(place, 400, 2 * rounds, report)
        if wanted("pulls") or wanted("small_pull"):
            async with gateway(place, [measures.OCN]) as gate:
                if wanted("pulls"):
                    await measures.pulls(place, psql, gate, rounds, report)
                if wanted("small_pull"):
                    await measures.small_pull(gate, 4.0, report)
        if wanted("exposure"):
            await exposure.exposure(place, accesses, report)
        if wanted("ingest_small"):
            await measures.ingest_small(place, psql, small_files, report)
    if wanted("log_append"):
        async with stage("bench_log") as place:
            await logs.append(place, 3.0, rounds, report)
    if wanted("fsck"):
        async with stage("bench_fsck") as place:
            await logfsck.fsck(place, (log_entries // 10, log_entries), report)
    return results


if __name__ == "__main__":
    main()
