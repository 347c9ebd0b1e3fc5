"""What the tests of several stages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def realdata() -> Path:
    """The folder of real pictures; the test is skipped where there is none."""
    folder = os.environ.get("DEPTHGEN_REALDATA")
    if not folder:
        pytest.skip("set $DEPTHGEN_REALDATA to the folder of real pictures")
    return Path(folder)
