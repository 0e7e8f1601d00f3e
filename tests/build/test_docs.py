"""What the pages under docs/ tell a user to type works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
# timing every layer on the way would take longer than all else
FIRST = "from supertickets_ext.nn import MaskedConv2d\nMaskedConv2d.route = 'sparse'\n"


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p)], ids=lambda page: page.stem)
def test_python_blocks_run_in_their_order(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(FIRST + "\n".join(_blocks(page)))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_in_the_navigation(page: Path) -> None:
    assert page.name in (ROOT / "mkdocs.yml").read_text()
