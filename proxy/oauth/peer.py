"""What the socket and the request line say, and no header: the peer's address, the path."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from aiohttp import web

NOWHERE = "::"
"""The unspecified address: in no network that a peer could come from."""


def address(request: web.Request) -> str:
    """Return the address of the socket's other end (an IPv4-mapped one as IPv4); NOWHERE where it has none.

    Behind a proxy this is the proxy: forwarded-for headers are not believed.
    """
    transport = request.transport
    name = None if transport is None else transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return NOWHERE
    try:
        found = ip_address(str(name[0]).partition("%")[0])
    except ValueError:
        return NOWHERE
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def path(request: web.Request) -> str:
    """Return the path of the request line as it was sent, without query."""
    return request.raw_path.partition("?")[0]
