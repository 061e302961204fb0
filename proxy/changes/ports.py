"""What changes need from the staff's sign-in, as shapes (proxy/oauth fills them)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from aiohttp import web


class Grant(Protocol):
    """A staff member who is signed in, has these roles, is trained and not suspended."""

    @property
    def staff_id(self) -> str: ...
    @property
    def roles(self) -> Collection[str]: ...
    @property
    def token_id(self) -> str: ...
    @property
    def jkt(self) -> str: ...
    @property
    def address(self) -> str: ...
