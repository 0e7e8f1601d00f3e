"""The built package: what importing it does, its facts, and its stable ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def package_folder() -> Path:
    spec = find_spec("supertickets_ext")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


PACKAGE = package_folder()


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter outside the repository."""
    path = {"PYTHONPATH": environment.pop("PYTHONPATH", str(PACKAGE.parent))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **path, **environment}, cwd=Path(sys.executable).parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


# The finder of an editable install would supply the original where the copy lacks a file.
IMPORT_COPY = (
    "import sys;"
    "sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')];"
    "import supertickets_ext"
)


def test_import_brings_in_torch_only() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import supertickets_ext;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'torch', 'supertickets_ext'}))"
    )
    done = python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_import_and_use_never_initialise_cuda() -> None:
    code = (
        "import torch\n"
        "def refuse(*_, **__): raise SystemExit('CUDA was initialised')\n"
        "torch.cuda._lazy_init = torch.cuda.init = refuse\n"
        "torch._C._cuda_init = refuse\n"
        "import supertickets_ext as s\n"
        "s.topk_mask(torch.ones(3), 1); s._C.facts()\n"
        "print(torch.cuda.is_initialized())"
    )
    done = python(code)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["operators", "facts"])
def test_a_missing_library_is_an_import_error_with_the_remedy(tmp_path: Path, missing: str) -> None:
    copy = tmp_path / "supertickets_ext"
    shutil.copytree(PACKAGE, copy)
    libraries = [p for p in copy.glob("*.so") if p.name.startswith("_C") == (missing == "facts")]
    assert libraries
    for library in libraries:
        library.unlink()
    done = python(IMPORT_COPY, PYTHONPATH=str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"(\w+\.)*ImportError: ", last), done.stderr
    assert "pip install" in done.stderr, "the message must say how to build the library"


def test_a_damaged_library_is_an_import_error_with_the_remedy(tmp_path: Path) -> None:
    copy = tmp_path / "supertickets_ext"
    shutil.copytree(PACKAGE, copy)
    for library in copy.glob("*.so"):
        library.write_bytes(b"not a library")
    done = python(IMPORT_COPY, PYTHONPATH=str(tmp_path))
    assert "ImportError: " in done.stderr
    assert "pip install" in done.stderr


def test_facts() -> None:
    from supertickets_ext import _C

    facts = _C.facts()
    expected = {
        "version": str, "compiler": str, "build_type": str, "sanitize": str,
        "torch_built_with": str, "torch_floor": str, "cuda_note": str, "instruction_set": str,
        "compiled_instruction_sets": list, "usable_instruction_sets": list, "cuda_targets": list,
        "threads": int,
    }  # fmt: skip
    assert {name: type(facts.get(name)) for name in expected} == expected
    assert facts["usable_instruction_sets"][0] == "baseline"
    assert set(facts["usable_instruction_sets"]) <= set(facts["compiled_instruction_sets"])
    assert facts["instruction_set"] in facts["usable_instruction_sets"]
    assert facts["threads"] >= 1
    assert facts["compiler"]


def test_facts_do_not_change_when_their_copy_is_changed() -> None:
    from supertickets_ext import _C

    _C.facts()["compiler"] = "mine"
    assert _C.facts()["compiler"] != "mine"


def test_the_operator_library_uses_the_stable_abi_only() -> None:
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("nm (binutils) is not installed")
    libraries = [path for path in PACKAGE.glob("*.so") if not path.name.startswith("_C")]
    assert libraries
    for library in libraries:
        symbols = subprocess.run(
            [tool, "-DC", "--undefined-only", str(library)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        foreign = [line for line in symbols.splitlines() if re.search(r"\b(at|c10|caffe2)::", line)]
        assert foreign == [], "C++ symbols of torch tie the library to one torch version"
        assert "aoti_torch" in symbols, "the library should call torch through its C functions"


def test_the_doctor_finds_nothing_wrong() -> None:
    from supertickets_ext.doctor import self_test

    rows = self_test()
    assert rows
    assert all(ok for _, ok, _ in rows), rows
    assert {"masked_conv2d", "topk_mask", "global_topk_mask", "update_topk_mask_"} <= {
        operator for operator, _, _ in rows
    }
