"""Wheel and source archive: both packages, the library, and nothing that is not the project's."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def build(kind: str, folder: Path) -> Path:
    """Build ``kind`` ("wheel" or "sdist") without a second environment, and find it."""
    code = f"import setuptools.build_meta as b; print(b.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.iterdir())


def test_wheel(tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(build("wheel", tmp_path)).namelist())
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "supertickets",
        "supertickets_ext",
    }
    in_git = subprocess.run(
        ["git", "ls-files", "supertickets_ext", "python/supertickets"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    expected = {name.removeprefix("python/") for name in in_git}
    assert expected <= names, "files of the packages are missing from the wheel"
    libraries = [name for name in names if name.endswith(".so")]
    assert len(libraries) == 2
    assert all(name.startswith("supertickets_ext/") for name in libraries)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_archive_can_build(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.[ch]*")}
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", *sources}
    assert needed <= names, f"missing: {sorted(needed - names)}"
    assert not [name for name in names if name.startswith(("build/", "runs/", ".venv/"))]
