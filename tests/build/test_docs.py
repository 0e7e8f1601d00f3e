"""What the pages under docs/ tell a user to type works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks.tables import ROOT
from supertickets_ext.nn import MaskedConv2d

PAGES = sorted((ROOT / "docs").glob("*.md"))


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p)], ids=lambda page: page.stem)
def test_python_blocks_run_in_their_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MaskedConv2d, "route", "sparse")  # timing every layer would take longer
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for block in _blocks(page):
            exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_in_the_navigation(page: Path) -> None:
    assert page.name in (ROOT / "mkdocs.yml").read_text()
