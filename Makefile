# Every target sets up what it needs; a second call rebuilds only what changed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RESULTS := benchmarks/results
NATIVE := CMakeLists.txt $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CXX_FILES = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: run test bench lint docs format sanitize study cuda-on-cpu cuda-check check-torch clean

run: $(VENV)/.built           ## find a lottery jackpot on real digits and write a page about it
	$(BIN)/supertickets run

test: $(VENV)/.built cuda-on-cpu  ## every test that needs no GPU
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

bench: $(VENV)/.built         ## operator benchmarks; results in benchmarks/results
	$(BIN)/python -m benchmarks.bench_masked_conv2d --batch 1 --out $(RESULTS)/masked_conv2d_batch1.json
	$(BIN)/python -m benchmarks.bench_masked_conv2d --batch 32 --out $(RESULTS)/masked_conv2d_batch32.json
	$(BIN)/python -m benchmarks.bench_masked_conv2d --goals --out $(RESULTS)/masked_conv2d_goals.json
	$(BIN)/python -m benchmarks.bench_sparse_network --out $(RESULTS)/sparse_network.json
	$(BIN)/python -m benchmarks.study_sparse_training --out $(RESULTS)/study_sparse_training.json
	$(BIN)/python -m benchmarks.bench_topk_mask --out $(RESULTS)/topk_mask.json
	$(BIN)/python -m benchmarks.tables

study: $(VENV)/.built         ## the jackpot study that the README quotes (about 20 minutes)
	$(BIN)/python -m benchmarks.study_jackpot
	$(BIN)/python -m benchmarks.tables

lint: $(VENV)/.deps           ## style, types and C++ format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

docs: $(VENV)/.built          ## the documentation as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.deps
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

sanitize: $(VENV)/.deps       ## kernels under ASan + UBSan, and TSan
	PATH="$(abspath $(BIN)):$$PATH" tests/build/sanitize.sh
	PATH="$(abspath $(BIN)):$$PATH" tests/cuda_on_cpu/sanitize.sh

TORCH_HOME_OF = $(BIN)/python -c "import pathlib, torch; print(pathlib.Path(torch.__file__).parent)"
cuda-on-cpu: $(VENV)/.deps    ## the CUDA kernels, built by the C++ compiler for the tests
	torch=$$($(TORCH_HOME_OF)) && PATH="$(abspath $(BIN)):$$PATH" && \
	cmake -G Ninja -S tests/cuda_on_cpu -B build/cuda_on_cpu -DSUPERTICKETS_TORCH_INCLUDE=$$torch/include \
	  -DSUPERTICKETS_TORCH_LIB=$$torch/lib >/dev/null && cmake --build build/cuda_on_cpu

cuda-check: $(VENV)/.deps     ## compile the CUDA kernels for every target; fails on spills (needs nvcc)
	$(BIN)/python -m benchmarks.cuda_static --out $(RESULTS)/cuda_static.json

# Loads the library built here in another torch and runs the operator tests there:
#   make check-torch TORCH=2.14.1     (installs several GB where only CUDA builds are to be had)
check-torch: $(VENV)/.built
	tests/build/other_torch.sh $(VENV) $(TORCH)

$(VENV)/.deps: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 "setuptools>=77" wheel pybind11 cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[dev,onnx,pose,track,docs]"
	touch $@

$(VENV)/.built: $(VENV)/.deps setup.py $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py -q build_ext --inplace
	touch $@

clean:
	rm -rf build dist *.egg-info supertickets_ext/*.so $(VENV)/.built
