# The one entry point. `make demo` and `make test` need nothing but Debian 12 and a Swift 6.3 toolchain: they install
# the packages that they use themselves.

SWIFT ?= swift
# Packed relocations need glibc 2.36, which Debian 12 has, and save 0.9 MB of the daemon; without functions that nobody calls
# it is 0.2 MB smaller.
RELEASE_FLAGS := -c release --static-swift-stdlib -Xswiftc -use-ld=lld \
	-Xlinker --icf=safe -Xlinker -z -Xlinker pack-relative-relocs \
	-Xswiftc -Xfrontend -Xswiftc -function-sections -Xlinker --gc-sections
SOURCES := Package.swift Sources Tests Benchmarks/Package.swift Benchmarks/Benchmarks
FUZZ_RUNS ?= 1000000
TORTURE ?= --operations 10000000
KILLS ?= 100000

prefix ?= /usr/local
sysconfdir ?= /etc
DESTDIR ?=

.PHONY: help setup setup-demo setup-test setup-rig setup-model demo check release e2e gates rig rig-smoke rig-bench bench kills bench-net test torture model step-kill fuzz install install-files install-disks uninstall

help:
	@echo 'make setup    install the Debian packages that building needs'
	@echo 'make demo     serves an ext4 image, verifies every block, measures against fio: ./xen-loopback-demo.svg'
	@echo 'make test     everything that must hold: format, both builds, tests, models, e2e, gates, kills, fuzz, rig-smoke'
	@echo 'make check    format and a debug build of everything, tests included'
	@echo 'make fuzz     FUZZ_RUNS random inputs (default $(FUZZ_RUNS)) for everything that judges guest bytes or journals'
	@echo 'make model    the restart algorithm, model-checked in about three minutes: see Tests/Models'
	@echo 'make torture  a process killed at every step under overlapping requests: TORTURE="$(TORTURE)"'
	@echo 'make step-kill  KILLS kills (default $(KILLS), some minutes) at any instruction of block and network queues, and all mutants'
	@echo 'make release  static release binaries (see: swift build $(RELEASE_FLAGS) --show-bin-path)'
	@echo 'make gates    what the release binaries must hold: see scripts/gates'
	@echo 'make e2e      the real daemon under verified I/O, the hotplug script: see scripts/e2e, Tests/Hotplug'
	@echo 'make rig      on real Xen, emulated: all scenarios of Tests/XenRig, or those that SCENARIO=... matches'
	@echo 'make rig-smoke  one guest that boots from our disk, in five minutes'
	@echo 'make rig-bench  against the kernel'"'"'s backends and qdisk on real Xen, recorded in Benchmarks/results/rig'
	@echo 'make bench    side by side with fio and other backends, recorded in Benchmarks/results'
	@echo 'make kills    both daemons killed under checked load, thousands of times, and the pauses; needs root'
	@echo 'make bench-net  the network backend side by side with plain system calls on TAP devices; needs root'
	@echo 'make install  both daemons, udev rules, units and scripts, under DESTDIR and prefix (default $(prefix))'
	@echo 'make uninstall  takes them away again'

setup:
	@scripts/setup build

setup-demo:
	@scripts/setup demo

setup-test:
	@scripts/setup test

setup-rig:
	@scripts/setup rig

setup-model:
	@scripts/setup model

check:
	$(SWIFT) format lint --strict --recursive $(SOURCES)
	$(SWIFT) build --build-tests

release: setup
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-blkbackd
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-netbackd
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-backctl
	$(SWIFT) build $(RELEASE_FLAGS) --product xen-loopback

gates: setup-test release
	scripts/gates/run

demo: setup-demo release
	"$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-loopback" demo

e2e: setup-test release
	scripts/e2e
	Tests/Hotplug/run

# `make rig SCENARIO='lvm-* smoke'`
rig: setup-rig release
	Tests/XenRig/run $(SCENARIO)

rig-smoke: setup-rig release
	Tests/XenRig/run --smoke

rig-bench: setup-rig release
	Benchmarks/rig
	Benchmarks/rig --network

bench: setup-test release
	Benchmarks/run
	Benchmarks/readme-table

# Two thousand of the one, five hundred of the other: five minutes.
kills: setup-test release
	Benchmarks/kills

bench-net: setup-test release
	Benchmarks/run --network
	Benchmarks/readme-table

test: setup-test check
	SWIFT='$(SWIFT)' scripts/unit-tests
	$(MAKE) model
	$(MAKE) e2e gates
	$(MAKE) step-kill KILLS=15000
	$(MAKE) torture
	$(MAKE) fuzz FUZZ_RUNS=200000
	$(MAKE) rig-smoke

model: setup-model
	Tests/Models/run

# A violation prints the seed that repeats it.
torture: setup
	$(SWIFT) build $(RELEASE_FLAGS) --product torture
	"$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/torture" $(TORTURE)

# Of what fails, the last line says how to repeat it.
step-kill: setup
	$(SWIFT) build $(RELEASE_FLAGS) --product step-kill
	"$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/step-kill" --kills $(KILLS)
	"$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/step-kill" --mutants

# A crash leaves its input behind as crash-*. Given as the only argument it is repeated: the journals that are changed are the
# same each time, which needs hashes to be. Where memory came from is told then as well; it costs a tenth of the runs.
fuzz: setup
	FUZZ=1 $(SWIFT) build -c release --scratch-path .build/fuzz --product fuzz-wire
	SWIFT_BACKTRACE=enable=no SWIFT_DETERMINISTIC_HASHING=1 ASAN_OPTIONS=malloc_context_size=0 \
		.build/fuzz/release/fuzz-wire -runs=$(FUZZ_RUNS) -max_len=4224

# Rules, units and scripts name the daemon's and the helpers' places, which depend on the prefix. Xen and modprobe look
# below /etc only.
libexecdir := $(prefix)/libexec/xen-blkbackd
docdir := $(prefix)/share/doc/xen-blkbackd
PLACED := sed -e 's|/usr/sbin/|$(prefix)/sbin/|' -e 's|/usr/libexec/|$(prefix)/libexec/|' -e 's|/usr/share/|$(prefix)/share/|'
INSTALLED := $(prefix)/sbin/xen-blkbackd $(prefix)/sbin/xen-netbackd $(prefix)/sbin/xen-backctl $(prefix)/lib/udev/rules.d/90-xen-netbackd.rules \
	$(prefix)/lib/systemd/system/xen-netbackd@.service $(sysconfdir)/modprobe.d/xen-netbackd.conf \
	$(sysconfdir)/xen/scripts/vif-xen-netbackd $(docdir)/network-attachment.md \
	$(libexecdir)/domain-of $(libexecdir)/start $(libexecdir)/rescan \
	$(prefix)/lib/udev/rules.d/90-xen-blkbackd.rules \
	$(prefix)/lib/systemd/system/xen-blkbackd@.service $(prefix)/lib/systemd/system/xen-blkbackd.service \
	$(sysconfdir)/xen/scripts/block-xen-blkbackd $(sysconfdir)/modprobe.d/xen-blkbackd.conf \
	$(sysconfdir)/init.d/xen-blkbackd $(docdir)/README.md

# $(call place,SOURCE,DIRECTORY,MODE)
define place
install -d '$(DESTDIR)$(2)'
$(PLACED) '$(1)' > '$(DESTDIR)$(2)/$(notdir $(1))'
chmod $(3) '$(DESTDIR)$(2)/$(notdir $(1))'

endef

# Both backends. The kernel's then stand back for all disks and interfaces; who wants that for disks only: install-disks.
install: install-disks
	install -m 755 -s "$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-netbackd" '$(DESTDIR)$(prefix)/sbin/'
	$(call place,udev/90-xen-netbackd.rules,$(prefix)/lib/udev/rules.d,644)
	$(call place,systemd/xen-netbackd@.service,$(prefix)/lib/systemd/system,644)
	$(call place,modprobe/xen-netbackd.conf,$(sysconfdir)/modprobe.d,644)
	$(call place,hotplug/vif-xen-netbackd,$(sysconfdir)/xen/scripts,755)
	install -m 644 docs/network-attachment.md '$(DESTDIR)$(docdir)/'

install-disks: release install-files
	install -d '$(DESTDIR)$(prefix)/sbin'
	install -m 755 -s "$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-blkbackd" '$(DESTDIR)$(prefix)/sbin/'
	install -m 755 -s "$$($(SWIFT) build $(RELEASE_FLAGS) --show-bin-path)/xen-backctl" '$(DESTDIR)$(prefix)/sbin/'

install-files:
	$(foreach file,udev/domain-of init/start init/rescan,$(call place,$(file),$(libexecdir),755))
	$(call place,udev/90-xen-blkbackd.rules,$(prefix)/lib/udev/rules.d,644)
	$(call place,systemd/xen-blkbackd@.service,$(prefix)/lib/systemd/system,644)
	$(call place,systemd/xen-blkbackd.service,$(prefix)/lib/systemd/system,644)
	$(call place,hotplug/block-xen-blkbackd,$(sysconfdir)/xen/scripts,755)
	$(call place,modprobe/xen-blkbackd.conf,$(sysconfdir)/modprobe.d,644)
	$(call place,init/xen-blkbackd,$(sysconfdir)/init.d,755)
	install -d '$(DESTDIR)$(docdir)'
	install -m 644 README.md '$(DESTDIR)$(docdir)/'

# Running daemons go on.
uninstall:
	rm -f $(foreach file,$(INSTALLED),'$(DESTDIR)$(file)')
	-rmdir '$(DESTDIR)$(libexecdir)' '$(DESTDIR)$(docdir)'
