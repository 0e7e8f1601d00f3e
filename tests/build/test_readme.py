"""What the README says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.tables import DOCUMENTS, ROOT, render

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_are_those_of_the_stored_results(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "<!-- table:" in text
    assert render(text) == text, "run python -m benchmarks.tables"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (90, 1, 8, 8), dtype=torch.uint8, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
        )
    names = {"model": model, "images": pixels, "labels": torch.arange(90) % 3, "torch": torch}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    layer = names["layer"]
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~layer.mask].any()
    assert {file.name for file in tmp_path.iterdir()} == {"my-ticket", "pruned.pt"}
