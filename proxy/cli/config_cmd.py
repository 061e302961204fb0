"""`tollgate config`: every setting with its meaning, its value and where the value comes from."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click

from proxy.cli.common import emit, home_of, json_option
from proxy.config import ENV_PREFIX, Config, load


def without_password(url: str) -> str:
    """Return a database URL fit to be shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, separator, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return urlunsplit(parts._replace(netloc=name + (":***" if colon else "") + separator + host))


def _rows(config: Config) -> list[dict[str, Any]]:
    file = config.path("tollgate.toml")
    written = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows = []
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name == "database_url":
            value = without_password(value)
        if ENV_PREFIX + field.name.upper() in os.environ:
            source = "environment"
        else:
            source = "file" if field.name in written else "default"
        rows.append({"name": field.name, "value": value, "source": source, "meaning": field.metadata["doc"]})
    return rows


@click.command()
@json_option
@click.pass_context
def config(ctx: click.Context, as_json: bool) -> None:
    """Show every setting, its meaning, its value and where the value comes from.

    A setting listen_port is listen_port in <home>/tollgate.toml and TOLLGATE_LISTEN_PORT in the environment.
    """
    rows = _rows(load(home_of(ctx)))
    if as_json:
        emit({row.pop("name"): row for row in rows})
        return
    for row in rows:
        click.echo(f"# {row['meaning']}\n{row['name']} = {json.dumps(row['value'], default=str)}  # {row['source']}")
