# The one entry point. `make demo` and `make test` need nothing but Debian 12 and a Swift 6.3 toolchain: they install
# the packages that they use themselves.

SWIFT ?= swift
RELEASE_FLAGS := -c release --static-swift-stdlib
SOURCES := Package.swift Sources Tests Benchmarks/Package.swift Benchmarks/Benchmarks
FUZZ_RUNS ?= 1000000

prefix ?= /usr/local
DESTDIR ?=

.PHONY: help setup setup-demo setup-test demo check release e2e gates bench test fuzz install

help:
	@echo 'make setup    install the Debian packages that building needs'
	@echo 'make demo     serves an ext4 image, verifies every block, measures against fio: ./xen-loopback-demo.svg'
	@echo 'make test     everything that must hold: format, both builds, tests, e2e, gates'
	@echo 'make check    format and a debug build of everything, tests included'
	@echo 'make fuzz     FUZZ_RUNS random requests (default $(FUZZ_RUNS)) against everything that judges guest bytes'
	@echo 'make release  static release binaries (see: swift build $(RELEASE_FLAGS) --show-bin-path)'
	@echo 'make gates    what the release binaries must hold: see scripts/gates'
	@echo 'make e2e      the real daemon under verified I/O: see scripts/e2e'
	@echo 'make bench    side by side with fio and other backends, recorded in Benchmarks/results'
	@echo 'make install  the daemon, udev rules and units, under DESTDIR and prefix (default $(prefix))'

setup:
	@scripts/setup build

setup-demo:
	@scripts/setup demo

setup-test:
	@scripts/setup test

check:
	$(SWIFT) format lint --strict --recursive $(SOURCES)
	$(SWIFT) build --build-tests

release: setup
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-blkbackd
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-loopback

gates: setup-test release
	scripts/gates/run

demo: setup-demo release
	"$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-loopback" demo

e2e: setup-test release
	scripts/e2e

bench: setup-test release
	Benchmarks/run
	Benchmarks/readme-table

test: setup-test check
	$(SWIFT) test
	$(MAKE) e2e gates

# A crash leaves its input behind as crash-*.
fuzz: setup
	FUZZ=1 $(SWIFT) build -c release --scratch-path .build/fuzz --product fuzz-wire
	SWIFT_BACKTRACE=enable=no .build/fuzz/release/fuzz-wire -runs=$(FUZZ_RUNS) -max_len=4224

# The rules and the unit name the daemon's place, which depends on the prefix.
install: release
	install -d '$(DESTDIR)$(prefix)/sbin' '$(DESTDIR)$(prefix)/libexec/xen-blkbackd' \
		'$(DESTDIR)$(prefix)/lib/udev/rules.d' '$(DESTDIR)$(prefix)/lib/systemd/system' \
		'$(DESTDIR)$(prefix)/share/doc/xen-blkbackd'
	install -m 755 -s "$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-blkbackd" '$(DESTDIR)$(prefix)/sbin/'
	install -m 755 udev/unit-of '$(DESTDIR)$(prefix)/libexec/xen-blkbackd/'
	install -m 644 udev/modprobe-xen-blkbackd.conf '$(DESTDIR)$(prefix)/share/doc/xen-blkbackd/'
	sed 's|/usr/libexec/|$(prefix)/libexec/|' udev/90-xen-blkbackd.rules \
		> '$(DESTDIR)$(prefix)/lib/udev/rules.d/90-xen-blkbackd.rules'
	for type in vbd vbd3; do \
		sed 's|/usr/sbin/|$(prefix)/sbin/|' 'systemd/xen-blkbackd-TYPE@.service' \
			> "$(DESTDIR)$(prefix)/lib/systemd/system/xen-blkbackd-$$type@.service"; \
	done
