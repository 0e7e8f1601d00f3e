"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitize.sh")


@pytest.mark.slow
def test_kernels_are_clean_and_planted_faults_are_noticed() -> None:
    for tool in ("cmake", "ninja", "bash"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on the path")
    done = subprocess.run(
        [str(SCRIPT), "address,undefined"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "a planted address fault is noticed" in done.stdout
    assert "a planted undefined fault is noticed" in done.stdout
