"""An OpenID provider to try things out with: oidc-provider-mock over TLS. Anybody may be anybody there.

    python deploy/demo/provider.py serve FOLDER          run it, at https://localhost:9400; its CA is FOLDER/ca.pem
    python deploy/demo/provider.py token FOLDER WHO NONCE   do what WHO does in the browser; print the ID token

WHO is one of the people below, in the groups that the settings of Tollgate name. In a browser (`tollgate login`) its
page asks for the same name and no password.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import os
import secrets
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT_ID = "tollgate"
PORT = 9400
PEOPLE = {
    "operator-1": ["tollgate-operator"],
    "operator-2": ["tollgate-operator"],
    "handler": ["tollgate-legal-handler"],
    "approver": ["tollgate-legal-approver"],
    "privacy-officer": ["tollgate-privacy-officer"],
    "noc": ["tollgate-noc"],
}
"""People by `sub`, with their groups."""

_WAIT_S = 30.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are read, not followed: they lead to whoever asked."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def serve(folder: Path, port: int) -> None:
    """Run the provider until SIGTERM; its certificate is made first, if it is not there."""
    warnings.simplefilter("ignore", DeprecationWarning)  # its own libraries'
    import uvicorn
    from oidc_provider_mock import app
    from oidc_provider_mock._storage import User

    from proxy.cli import tls

    if not (folder / "server.pem").exists():
        tls.make(folder, "localhost", datetime.datetime.now(datetime.UTC))
    # Its redirects go to http on loopback (RFC 8252 section 7.3), which its library calls insecure.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    # uvicorn stops in order at SIGTERM and then raises it anew: that is a good end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    users = [User(sub=who, claims={"groups": groups}) for who, groups in PEOPLE.items()]
    uvicorn.run(
        app(require_nonce=True, user_claims=users), interface="wsgi", host="127.0.0.1", port=port, log_level="warning",
        ssl_certfile=folder / "server.pem", ssl_keyfile=folder / "server.key",
    )  # fmt: skip


def id_token(folder: Path, port: int, who: str, nonce: str) -> str:
    """Sign in as ``who``, by the authorization code flow with PKCE (RFC 7636), and return the ID token."""
    base = f"https://localhost:{port}"
    _wait(folder, base)
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(folder / "ca.pem"))), _Stay
    )
    verifier, redirect = secrets.token_urlsafe(40), "http://127.0.0.1/callback"
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": redirect,
        "scope": "openid",
        "nonce": nonce,
        "state": secrets.token_urlsafe(16),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    try:
        opener.open(f"{base}/oauth2/authorize?{urlencode(asked)}", urlencode({"sub": who}).encode(), timeout=30).close()
        raise SystemExit("the provider did not send us back")
    except urllib.error.HTTPError as answer:
        place = answer.headers.get("Location", "")
        answer.close()
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(place).query)["code"][0],
        "redirect_uri": redirect,
        "client_id": CLIENT_ID,
        "client_secret": "any",  # it knows no public clients
        "code_verifier": verifier,
    }
    with opener.open(f"{base}/oauth2/token", urlencode(form).encode(), timeout=30) as answer:
        return str(json.load(answer)["id_token"])


def _wait(folder: Path, base: str) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            urllib.request.urlopen(f"{base}/.well-known/openid-configuration", context=context, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    token = commands.add_parser("token")
    for each in (serving, token):
        each.add_argument("folder", type=Path)
        # In the environment for whoever tries it out on a machine where that port is taken.
        each.add_argument("--port", type=int, default=int(os.environ.get("DEMO_PROVIDER_PORT", PORT)))
    token.add_argument("who", choices=PEOPLE)
    token.add_argument("nonce")
    chosen = parser.parse_args()
    if chosen.command == "serve":
        serve(chosen.folder, chosen.port)
    else:
        print(id_token(chosen.folder, chosen.port, chosen.who, chosen.nonce))


if __name__ == "__main__":
    main()
