#!/usr/bin/env bash
# Loads the operator library that was built against one torch in another one, and runs the operator
# tests there. Installs that torch into a virtual environment of its own below build/.
#   tests/build/other_torch.sh VENV TORCH_VERSION
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
built_in=${1:?the virtual environment the library was built in}
version=${2:?a torch version, such as 2.14.1}
folder=build/torch-$version

if [ ! -x "$folder/bin/python" ]; then "$built_in/bin/python" -m venv "$folder"; fi
"$folder/bin/python" -m pip install -q "torch==$version" numpy pytest pytest-benchmark hypothesis
# The source tree is on the path, and with it the library as it was built.
export PYTHONPATH=$PWD:$PWD/python
"$folder/bin/python" - <<'PYTHON'
import torch
import supertickets_ext
from supertickets_ext import _C, doctor

print(f"built with torch {_C.facts()['torch_built_with']}, loaded in torch {torch.__version__}")
rows = doctor.self_test()
for row in rows:
    print(f"  {row.operator:20} {'ok' if row.ok else 'FAILED'}  {row.detail}")
assert all(row.ok for row in rows)
PYTHON
"$folder/bin/python" -m pytest -q tests/ext -p no:cacheprovider
