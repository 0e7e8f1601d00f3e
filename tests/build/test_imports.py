"""Who may import whom: walks every import statement and include line."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ROOT / "python" / "supertickets"

# The house, floor by floor: a room imports rooms of lower floors only, or, where listed, a friend.
BASE = {"errors", "files", "seeds", "hashing", "machine", "masks"}
GROUND = {"tasks", "ticket", "ticket_card", "ticket_files", "masked_modules", "spaces", "data",
          "training", "evaluate"}  # fmt: skip
STAGES = {"rank", "distill", "prune", "search", "transfer", "export", "report"}
RUN = {"bench", "config", "stages", "run", "doctor"}
FLOORS = [BASE, GROUND, STAGES, RUN, {"cli"}]
FRIENDS = {
    ("search", "prune"), ("search", "distill"), ("transfer", "prune"), ("transfer", "distill"),
}  # fmt: skip
OUTSIDE = {"__init__", "__main__"}  # entry points, free to import anything of the package
HEAVY = {"onnx", "onnxruntime", "onnxscript", "torchvision", "timm", "tensorboard", "matplotlib",
         "sklearn", "scipy", "pycocotools"}  # fmt: skip


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute dotted names of everything imported below ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = [*base] if node.level else []
            module = ".".join([*prefix, *(node.module or "").split(".")]).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without function bodies and without blocks for type checkers."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


def package_of(path: Path, root: Path, name: str) -> str:
    """Dotted package in which a relative import of this file is resolved."""
    return ".".join([name, *path.relative_to(root).parent.parts])


def room(dotted: str) -> str | None:
    """The room of a module of the pipeline: the part after ``supertickets``."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "supertickets" and len(parts) > 1 else None


def breaches(source: str, path: Path) -> list[str]:
    """Imports of one pipeline file that the law forbids."""
    relative = path.relative_to(PIPELINE)
    here = relative.parts[0].removesuffix(".py")
    if here in OUTSIDE and len(relative.parts) == 1:
        return []
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    if here not in floor:
        return [f"{relative}: the room {here!r} has no floor; add it to FLOORS"]
    found = []
    for name in imports(ast.parse(source), package_of(path, PIPELINE, "supertickets")):
        there = room(name)
        if there is None or there == here or there not in floor:
            continue
        above = floor[there] > floor[here]
        neighbours = floor[there] == floor[here] and here in STAGES
        if (above or neighbours) and (here, there) not in FRIENDS:
            found.append(f"{relative} imports {name}: {here} may not import {there}")
    return found


def pipeline_files() -> list[Path]:
    return sorted(PIPELINE.rglob("*.py"))


def test_pipeline_keeps_the_floors() -> None:
    found = [line for path in pipeline_files() for line in breaches(path.read_text(), path)]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("prune/jackpot.py", "from supertickets.training import train", True),
        ("prune/jackpot.py", "from ..training import train", True),
        ("prune/jackpot.py", "from . import masks", True),
        ("prune/jackpot.py", "def f():\n    from supertickets.export import onnx", False),
        ("prune/jackpot.py", "from ..report import page", False),
        ("prune/jackpot.py", "import supertickets.run", False),
        ("prune/jackpot.py", "from supertickets import cli", False),
        ("training/loop.py", "from ..evaluate import classification", True),
        ("training/loop.py", "import supertickets.prune.jackpot", False),
        ("errors.py", "from supertickets.ticket import Ticket", False),
        ("run.py", "from supertickets import prune, report", True),
        ("run.py", "from supertickets.cli import main", False),
        ("search/joint.py", "from supertickets.prune import layer_rates", True),
        ("attic/old.py", "import torch", False),
    ],
)
def test_the_law_itself(path: str, source: str, allowed: bool) -> None:
    assert (breaches(source, PIPELINE / path) == []) == allowed


def test_heavy_packages_are_imported_inside_functions() -> None:
    for path in pipeline_files():
        tree = at_import_time(ast.parse(path.read_text()))
        found = {name.split(".")[0] for name in imports(tree, "supertickets")} & HEAVY
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)} when it is imported"


def test_extension_imports_torch_and_itself_only() -> None:
    allowed = {"torch", "supertickets_ext", *sys.stdlib_module_names}
    files = sorted((ROOT / "supertickets_ext").rglob("*.py"))
    assert files
    for path in files:
        package = package_of(path, ROOT / "supertickets_ext", "supertickets_ext")
        names = imports(ast.parse(path.read_text()), package)
        found = {name.split(".")[0] for name in names} - allowed
        assert not found, f"{path.name} imports {sorted(found)}"


def test_nobody_imports_tests_or_benchmarks() -> None:
    for path in [*pipeline_files(), *sorted((ROOT / "supertickets_ext").rglob("*.py"))]:
        names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), "package")}
        assert not names & {"tests", "benchmarks"}, path.name


# --- C++ --------------------------------------------------------------------------------

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def included(path: Path, seen: set[Path] | None = None) -> Iterator[tuple[Path, str]]:
    """Every include line that compiling ``path`` meets inside csrc, with the file it stands in."""
    seen = set() if seen is None else seen
    if path in seen:
        return
    seen.add(path)
    for name in INCLUDE.findall(path.read_text()):
        yield path, name
        own = (path.parent / name).resolve()
        if own.is_file():
            yield from included(own, seen)


def is_framework(name: str) -> bool:
    return (
        name.split("/")[0] in {"torch", "ATen", "c10", "caffe2", "pybind11"} or name == "Python.h"
    )


KERNELS = sorted(
    path
    for folder in ("cpu", "cuda")
    for path in (ROOT / "csrc" / folder).glob("*.c*")
    if not re.search(r"_(cpu|cuda)\.cpp$", path.name)
)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernel_files_know_no_framework(path: Path) -> None:
    found = [(where.name, name) for where, name in included(path) if is_framework(name)]
    assert not found, "kernels take plain pointers; tensors belong in the *_cpu.cpp beside them"


def test_the_kernel_check_program_knows_no_framework() -> None:
    for name in INCLUDE.findall((ROOT / "tests" / "build" / "kernels_main.cpp").read_text()):
        assert not is_framework(name)


def test_only_stable_torch_headers_are_used() -> None:
    for path in sorted((ROOT / "csrc").rglob("*.[ch]*")):
        for name in INCLUDE.findall(path.read_text()):
            if is_framework(name) and not name.startswith("pybind11/"):
                assert name.startswith(("torch/csrc/stable/", "torch/headeronly/")), (path, name)


def test_every_schema_stands_in_library_cpp_and_nothing_else_does() -> None:
    for path in sorted((ROOT / "csrc").rglob("*.[ch]*")):
        defines = re.findall(r"\bm\.def\(\s*\"", path.read_text())
        if path.name == "library.cpp":
            assert defines
            assert "m.impl(" not in path.read_text()
        elif path.name != "module.cpp":  # pybind11's own m.def
            assert not defines, f"{path.name} defines a schema"


def test_cmake_lists_every_source() -> None:
    listed = (ROOT / "CMakeLists.txt").read_text().split()
    cuda = (ROOT / "csrc/cuda/sources.cmake").read_text()
    listed += [f"csrc/cuda/{name}" for name in cuda.replace(")", " ").split()]
    for path in sorted((ROOT / "csrc").rglob("*.c[pu]*")):
        if path.suffix in (".cpp", ".cu"):
            name = str(path.relative_to(ROOT))
            assert name in listed or f"{name})" in listed, f"{name} is compiled by nobody"
