"""The options of `tollgate pull`: who asks whom, for what, and where it goes; and what their texts mean."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from proxy.cli.common import json_option
from proxy.client.forms import Form


def connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who asks whom; each may stand in the environment instead."""
    options = (
        click.option("--issuer", required=True, envvar="TOLLGATE_PULL_ISSUER", help="The carrier's issuer URL."),
        click.option("--client-id", required=True, envvar="TOLLGATE_PULL_CLIENT_ID", help="Your client id there."),
        click.option(
            "--key",
            "key_file",
            required=True,
            envvar="TOLLGATE_PULL_KEY",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Your private key (see keygen).",
        ),
        click.option(
            "--ca",
            envvar="TOLLGATE_PULL_CA",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Authority to trust for TLS, PEM; default: the system's.",
        ),
        click.option(
            "--ocn", "ocns", multiple=True, help="Ask for this OCN only; may be repeated. Default: all of yours."
        ),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def window(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which calls."""
    options = (
        click.option("--from", "start", required=True, help="First moment: a date (UTC) or RFC 3339 date-time."),
        click.option("--to", "end", required=True, help="First moment no longer wanted."),
        click.option(
            "--direction",
            type=click.Choice(["ingress", "egress", "both"]),
            default="both",
            show_default=True,
            help="Calls you handed over (ingress), that were handed to you (egress), or both.",
        ),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where it goes, in which form, and how it is proven."""
    options = (
        click.option(
            "--format",
            "form",
            type=click.Choice([f.value for f in Form]),
            help="Default: by the name of --out, else csv.",
        ),
        click.option(
            "--out",
            required=True,
            type=click.Path(dir_okay=False, path_type=Path),
            help="File to write; it appears when everything is there and proven.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace --out if it is there."),
        click.option("--verify", is_flag=True, help="Fetch and verify the log's receipts; they are put beside --out."),
        click.option(
            "--log-key",
            envvar="TOLLGATE_PULL_LOG_KEY",
            help="The log's key, as the carrier gave it to you; default: the one seen first.",
        ),
        click.option("--witness", "witnesses", multiple=True, help="A witness's key that must have cosigned."),
        json_option,
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def moment(text: str, name: str) -> str:
    """Return a moment as RFC 3339 with an offset; a bare date is its midnight UTC.

    Raises:
        click.UsageError: naming the option.
    """
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        text += "T00:00:00Z"
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise click.UsageError(
            f"{name}: write a date (2026-11-01) or a date-time with offset (2026-11-01T06:00:00-05:00)"
        )
    return parsed.astimezone(UTC).isoformat().replace("+00:00", "Z")


def form_of(chosen: str | None, out: Path) -> Form:
    """Return the form that was chosen, or else the one that the file's name has; CSV where it has none."""
    if chosen:
        return Form(chosen)
    suffix = out.suffix.lstrip(".").lower()
    return Form(suffix) if suffix in list(Form) else Form.CSV
