"""`tollgate carrier|agreement|client` end to end, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keys.file_provider import FileProvider
from tests.conftest import Database
from tests.support.oauth import new_key


@pytest.fixture
def tollgate(database: Database) -> Any:
    config = database.config
    FileProvider.create(config.keyring_dir)

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "TOLLGATE_DATABASE_URL": config.database_url, "TOLLGATE_HOME": str(config.home)}
        done = subprocess.run(
            [sys.executable, "-m", "proxy.cli.main", *words], capture_output=True, text=True, env=environ, timeout=60
        )
        assert done.returncode == code, done.stderr
        return done

    return run


async def test_a_carrier_from_nothing_to_disabled(tollgate: Any, tmp_path: Path) -> None:
    key = new_key()
    file = tmp_path / "billing-a.jwk"
    file.write_text(json.dumps(key.public))
    tollgate("carrier", "add", "carrier-a", "--name", "Example Carrier A", "--ocn", "123a:2020-01-01", "--ocn", "123B")
    tollgate("carrier", "ocn", "carrier-a", "123C", "--from", "2024-01-01", "--to", "2025-01-01")
    tollgate("carrier", "ocn", "carrier-a", "123C", "--end", "2024-06-01", "--reason", "sold")
    tollgate(
        "agreement", "add", "ICA-1", "--carrier", "carrier-a", "--from", "2020-01-01", "--cpni-clause", "section 9"
    )
    tollgate("client", "add", "billing-a", "--carrier", "carrier-a", "--jwks", str(file), "--network", "192.0.2.0/24")
    (carrier,) = json.loads(tollgate("carrier", "list", "--json").stdout)
    assert [o["ocn"] for o in carrier["ocns"]] == ["123A", "123B", "123C"]
    assert carrier["ocns"][2] == {"ocn": "123C", "from": "2024-01-01", "to": "2024-06-01"}
    (client,) = json.loads(tollgate("client", "list", "--json").stdout)
    assert client["networks"] == ["192.0.2.0/24"]
    assert client["jwks"][0]["kid"] == key.kid
    assert json.loads(tollgate("agreement", "list", "--json").stdout)[0]["reference"] == "ICA-1"
    assert "billing-a" in tollgate("client", "list").stderr
    tollgate("client", "disable", "billing-a", "--reason", "stolen")
    tollgate("agreement", "disable", "ICA-1", "--reason", "ended")
    tollgate("carrier", "disable", "carrier-a", "--reason", "gone")
    assert json.loads(tollgate("client", "list", "--json").stdout)[0]["disabled_at"]


async def test_errors_say_what_is_wrong(tollgate: Any, tmp_path: Path) -> None:
    tollgate("carrier", "add", "carrier-a", "--name", "Example Carrier A")
    assert "there already" in tollgate("carrier", "add", "carrier-a", "--name", "Again", code=1).stderr
    assert "OCN" in tollgate("carrier", "ocn", "carrier-a", "12", code=1).stderr
    assert "no carrier" in tollgate("carrier", "ocn", "carrier-z", "123A", code=1).stderr
    tollgate("carrier", "ocn", "carrier-a", "123A", "--end", "2024-01-01", code=2)
    tollgate("carrier", "ocn", "carrier-a", "123A", "--from", "01/02/2024", code=2)
    secret = tmp_path / "secret.jwk"
    key = new_key()
    secret.write_text(json.dumps(key.private))
    words = ("client", "add", "billing-a", "--carrier", "carrier-a", "--network", "192.0.2.0/24", "--jwks")
    done = tollgate(*words, str(secret), code=1)
    assert "private" in done.stderr
    assert key.private["d"] not in done.stderr
    secret.write_bytes(b"\x00\xff")
    assert "not JSON" in tollgate(*words, str(secret), code=5).stderr
