"""What a gateway loads: memory is bounded from the first moment on."""

from __future__ import annotations

import subprocess
import sys

DESKS_ALONE = ("reportlab", "pypdf", "PIL", "holidays", "phonenumbers", "pyrage", "polars")


def test_a_gateway_without_legal_desk_does_not_load_what_only_a_desk_needs() -> None:
    code = f"import sys, proxy.app; print(*sorted(set(sys.modules) & set({DESKS_ALONE})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
