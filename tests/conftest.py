"""Routes that tests measure are shared by the processes of one session, and by nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_FOLDER = Path(tempfile.mkdtemp(prefix="supertickets-tests-"))
os.environ["SUPERTICKETS_ROUTE_CACHE"] = str(_FOLDER / "routes.json")


def pytest_sessionfinish(session: pytest.Session) -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)
