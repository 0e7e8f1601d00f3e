"""Thin driver of CMakeLists.txt; metadata lives in pyproject.toml.

Environment: SUPERTICKETS_CUDA=auto|0|1, MAX_JOBS, DEBUG=1, SUPERTICKETS_SANITIZE.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configures and builds with CMake + Ninja; an unchanged tree costs a second."""

    def run(self) -> None:
        """Build every target and install it beside the package's Python files."""
        try:
            import pybind11
            import torch
        except ImportError as error:
            raise SystemExit(
                f"building supertickets needs {error.name}; install torch, pybind11, cmake and "
                "ninja, then run pip install --no-build-isolation"
            ) from error
        torch_folder = Path(torch.__file__).parent
        debug = os.environ.get("DEBUG", "0") not in ("", "0")
        build = ROOT / "build" / f"{sys.implementation.cache_tag}{'-debug' if debug else ''}"
        build.mkdir(parents=True, exist_ok=True)
        arguments = {
            "CMAKE_BUILD_TYPE": "Debug" if debug else "Release",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "SUPERTICKETS_VERSION": self.distribution.get_version(),
            "SUPERTICKETS_TORCH_INCLUDE": torch_folder / "include",
            "SUPERTICKETS_TORCH_LIB": torch_folder / "lib",
            "SUPERTICKETS_TORCH_VERSION": torch.__version__,
            "SUPERTICKETS_CUDA": os.environ.get("SUPERTICKETS_CUDA", "auto"),
            "SUPERTICKETS_SANITIZE": os.environ.get("SUPERTICKETS_SANITIZE", ""),
        }
        defines = [f"-D{key}={value}" for key, value in arguments.items()]
        # The environment's own cmake and ninja go first: a system's cmake may be too old.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        environment = os.environ | {"PATH": path}
        subprocess.run(
            ["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *defines],
            check=True, env=environment,
        )  # fmt: skip
        jobs = os.environ.get("MAX_JOBS", "")
        if jobs and not jobs.isdecimal():
            raise SystemExit(f"MAX_JOBS must be a number of jobs, got {jobs!r}")
        subprocess.run(
            ["cmake", "--build", build, *(["--parallel", jobs] if jobs else [])],
            check=True, env=environment,
        )  # fmt: skip
        for old in self._target().glob("*.so"):  # a process that has it loaded keeps the old file
            old.unlink()
        subprocess.run(
            ["cmake", "--install", build, "--prefix", self._target()], check=True, env=environment
        )

    def _target(self) -> Path:
        base = ROOT if self.inplace else Path(self.build_lib).resolve()
        return base / "supertickets_ext"

    def get_outputs(self) -> list[str]:
        """Name what was installed, so that wheels record it."""
        return [str(path) for path in sorted(self._target().glob("*.so"))]


setup(
    ext_modules=[Extension("supertickets_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
