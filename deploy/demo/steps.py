"""What every step of the demo uses: to say what comes, and to hold itself to what it says."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

out = Console(highlight=False, soft_wrap=True)


class StepFailedError(Exception):
    """A step did not do what it says."""


def check(truth: bool, says: str) -> None:
    """Hold a step to what it says."""
    if not truth:
        raise StepFailedError(says)


def heading(text: str) -> None:
    """Begin a step."""
    out.print(f"\n[bold cyan]== {escape(text)}[/]")
