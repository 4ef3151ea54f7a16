# Thin: the work is in CMake presets and scripts/. `make run` and `make test` install what is missing first.
.PHONY: deps run test bench fuzz lint crash model format clean

FUZZ_SECONDS ?= 60
CYCLES ?= 100
SEEDS ?= 1000

deps:
	scripts/deps all

run:
	scripts/deps run
	scripts/build release nave
	scripts/run-demo

test:
	scripts/deps all
	scripts/test

bench:
	scripts/deps bench
	scripts/build release nave
	bench/compare

fuzz:
	scripts/deps build
	scripts/build fuzz
	scripts/fuzz $(FUZZ_SECONDS)

crash:
	scripts/deps all
	scripts/build release nave
	tests/crash/crash $(CYCLES)
	tests/crash/crash cloud $(CYCLES)

model:
	scripts/deps all
	scripts/build release model_test
	build/release/src/core/model_test -n $(SEEDS)

lint:
	scripts/deps all
	scripts/lint

format:
	git ls-files '*.c' '*.h' | xargs clang-format-14 -i

clean:
	rm -rf build
