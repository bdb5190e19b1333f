# The front door: each target installs what it needs (Debian packages, the model) and goes on from there.
# Everything built lands in build/<preset>; the presets are in CMakePresets.json.

PREFIX ?= /usr/local
JOBS   ?= $(shell nproc)
FUZZ_SECONDS ?= 60

launcher := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
sources   = $(shell git ls-files --cached --others --exclude-standard '*.cc' '*.h' '*.cu' '*.cuh')

.PHONY: help build demo test test-dev test-release test-tsan tsan bench model model-gemma fuzz format format-check tidy \
        readme install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## the program, build/release/cachette
	@tools/setup.sh build
	cmake --preset release $(launcher) -DCACHETTE_TESTS=OFF
	cmake --build --preset release --parallel $(JOBS)

model: ## fetch SmolLM2-135M-Instruct (94 MiB), the default model
	@tools/setup.sh model
	@tools/fetch_model.py smollm2

model-gemma: ## fetch Gemma 3 270M (242 MiB); Google's Gemma terms apply to it
	@tools/setup.sh model
	@tools/fetch_model.py gemma

demo: build model ## one question about a real document, full cache beside a small one
	@tools/demo.py

test: ## every test: all but the slow ones under the sanitizers, then all of them in the release build
	@$(MAKE) --no-print-directory test-dev
	@$(MAKE) --no-print-directory test-release

test-dev: ## ASan, UBSan and warnings as errors; not the tests labelled real-model or slow
	@tools/setup.sh build test model
	cmake --preset dev $(launcher)
	cmake --build --preset dev --parallel $(JOBS)
	ctest --preset dev --parallel $(JOBS)

test-release: model ## every test in the release build
	@tools/setup.sh build test
	cmake --preset release $(launcher) -DCACHETTE_TESTS=ON
	cmake --build --preset release --parallel $(JOBS)
	ctest --preset release --parallel $(JOBS)

tsan: ## the fast tests under ThreadSanitizer (clang, whose OpenMP runtime it understands)
	@tools/setup.sh build test tsan model
	cmake --preset tsan $(launcher)
	cmake --build --preset tsan --parallel $(JOBS)
	ctest --preset tsan

bench: model ## micro-benchmarks, then the model benchmark; BENCH_OPTIONS go to the former
	@tools/setup.sh build bench
	cmake --preset bench $(launcher)
	cmake --build --preset bench --parallel $(JOBS)
	@tools/run_benches.sh build/bench $(BENCH_OPTIONS)

fuzz: ## a minute (FUZZ_SECONDS) with each fuzz target (clang, libFuzzer)
	@tools/setup.sh build fuzz
	cmake -S fuzz -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ $(launcher)
	cmake --build build/fuzz --parallel $(JOBS)
	@tools/run_fuzz.sh build/fuzz $(FUZZ_SECONDS)

format: ## rewrite our sources in the project's style
	@tools/setup.sh format
	clang-format -i $(sources)

format-check: ## fail if `make format` would change something
	@tools/setup.sh format
	clang-format --dry-run --Werror $(sources)

tidy: ## clang-tidy over changed files, or over all of them with FILES=all
	@tools/setup.sh build test tidy
	cmake --preset dev -B build/tidy $(launcher) -DCMAKE_UNITY_BUILD=OFF
	tools/tidy.sh build/tidy $(FILES)

readme: build ## rewrite the generated tables of README.md
	@tools/update_readme.py

install: ## program, library, headers, CMake package and pkg-config file to PREFIX
	@tools/setup.sh build
	cmake --preset release $(launcher) -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	cmake --build --preset release --parallel $(JOBS)
	cmake --install build/release

clean: ## remove build/
	rm -rf build
