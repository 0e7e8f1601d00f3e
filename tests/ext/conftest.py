"""Make the shared case table importable, and keep the thread count of every test its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # appended: an installed package wins

from tests.ext.backends import BACKENDS, use_backend


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once for each back end."""
    name: str = request.param
    if name != "cpu" and request.node.get_closest_marker("rules"):
        pytest.skip("rules are registered for the operators that users call")
    use_backend(name, request.node.name, monkeypatch)
    return name
