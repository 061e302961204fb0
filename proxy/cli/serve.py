"""`tollgate serve`: run the gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal

import click
from rich.markup import escape

from proxy import logs
from proxy.cli.common import CliError, ExitCode, console, json_option, run, settings
from proxy.config import Config

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command()
@json_option
@click.pass_context
def serve(ctx: click.Context, as_json: bool) -> None:
    """Run the gateway: the API and the authorization server over TLS, metrics and health beside them.

    SIGTERM or Ctrl-C lets open answers end, for some seconds. Structured logs go to stderr.

    \b
    Example:
      tollgate serve
      TOLLGATE_LISTEN_HOST=0.0.0.0 tollgate --home /var/lib/tollgate serve
    """
    config = settings(ctx)
    if not config.path("tollgate.toml").exists() and not config.roles_file.exists():
        raise CliError(f"nothing is set up in {config.home}", ExitCode.CONFIGURATION, "run `tollgate init`")
    logs.configure()
    run(_serve(config, as_json))


async def _serve(config: Config, as_json: bool) -> None:
    # Imported here: everything of the gateway, which no other command needs.
    from proxy.app import build

    loop, told = asyncio.get_running_loop(), asyncio.Event()
    gateway = await build(config)
    await gateway.start()
    for number in _SIGNALS:
        loop.add_signal_handler(number, told.set)
    try:
        _say(config, gateway.url, gateway.metrics_url, as_json)
        await told.wait()
    finally:
        await gateway.stop()


def _say(config: Config, url: str, metrics_url: str, as_json: bool) -> None:
    if as_json:
        # One line, so that whoever started us can wait for it.
        click.echo(json.dumps({"issuer": config.issuer, "url": url, "metrics_url": metrics_url}))
        return
    console.print(f"Tollgate is open: [bold]{escape(config.issuer)}[/] (listening at {escape(url)})")
    console.print(f"metrics and health: {escape(metrics_url)}/metrics, /livez, /readyz", style="dim")
