# The one entry point. `make demo` and `make test` need nothing but Debian 12 and a Swift 6.3 toolchain: they install
# the packages that they use themselves.

SWIFT ?= swift
RELEASE_FLAGS := -c release --static-swift-stdlib
SOURCES := Package.swift Sources Tests Benchmarks/Package.swift Benchmarks/Benchmarks
FUZZ_RUNS ?= 1000000

prefix ?= /usr/local
DESTDIR ?=

.PHONY: help setup setup-test check release gates test fuzz install

help:
	@echo 'make setup    install the Debian packages that building needs'
	@echo 'make test     everything that must hold: format, both builds, tests'
	@echo 'make check    format and a debug build of everything, tests included'
	@echo 'make fuzz     FUZZ_RUNS random requests (default $(FUZZ_RUNS)) against everything that judges guest bytes'
	@echo 'make release  static release binaries (see: swift build $(RELEASE_FLAGS) --show-bin-path)'
	@echo 'make gates    what the release binaries must hold: see scripts/gates'
	@echo 'make install  the release binaries, under DESTDIR and prefix (default $(prefix))'

setup:
	@scripts/setup build

setup-test:
	@scripts/setup test

check:
	$(SWIFT) format lint --strict --recursive $(SOURCES)
	$(SWIFT) build --build-tests

release: setup
	$(SWIFT) build $(RELEASE_FLAGS)

gates: setup-test release
	scripts/gates/run

test: setup-test check
	$(SWIFT) test
	$(MAKE) gates

# A crash leaves its input behind as crash-*.
fuzz: setup
	FUZZ=1 $(SWIFT) build -c release --scratch-path .build/fuzz --product fuzz-wire
	SWIFT_BACKTRACE=enable=no .build/fuzz/release/fuzz-wire -runs=$(FUZZ_RUNS) -max_len=4224

install: release
	install -d '$(DESTDIR)$(prefix)/sbin'
	install -m 755 -s "$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-blkbackd" '$(DESTDIR)$(prefix)/sbin/'
