# What a newcomer types: `make demo` to see it work, `make check` to see that it does. What a
# developer types after each change: `make quick`.

CARGO ?= cargo

# PROGRAM:PACKAGE,... of what is needed to build, to play the demonstration, to run the tests.
BUILD = cc:gcc,libc6-dev
QEMU = qemu-system-x86_64:qemu-system-x86 as:binutils
TESTS = chromium:chromium qemu-img:qemu-utils xz:xz-utils runsv:runit s6-supervise:s6 svscan:daemontools git:git strace:strace ss:iproute2 systemd-analyze:systemd mandoc:mandoc prlimit:util-linux '/usr/lib/python3/dist-packages/prometheus_client:python3-prometheus-client'
ORIGINAL = '/usr/lib/ganeti/*/usr/sbin/ganeti-kvmd:^ganeti-haskell-3.[01]$$'
GANETI = '/usr/share/ganeti/*/ganeti/backend.py:^ganeti-3.[01]$$'

# Ganeti depends on some of these.
CLUSTER = journalctl:systemd sshd:openssh-server socat:socat fping:fping arping:iputils-arping ip:iproute2 nsenter:util-linux /usr/lib/python3/dist-packages/yaml:python3-yaml
DEBIANS = debootstrap:debootstrap cpio:cpio xz:xz-utils
ARM64 = qemu-system-aarch64:qemu-system-arm

PACKAGING = /usr/share/build-essential/list:build-essential dpkg-buildpackage:dpkg-dev dh:debhelper lintian:lintian
DEB = target/debian/ganeti-kvmd-rs_*.deb
DEB_RUN = target/debian/kvmd-run_*.deb
DEB_WHY = target/debian/kvmd-why_*.deb
PEERS = forkstat:forkstat extrace:extrace strace:strace
PLOT = /usr/lib/python3/dist-packages/matplotlib:python3-matplotlib

# The tests that this machine cannot run are named in this file.
NOT_RUN = $(CURDIR)/target/not-run
# What the tests have measured, for the table at the end.
FIGURES = $(CURDIR)/target/figures

.PHONY: all demo compare compare-run quick check every-order mutants fuzz deb test-deb cluster platforms tools bench bench-scale bench-fleet bench-programs picture size clean

all:
	@tests/install-packages $(BUILD)
	$(CARGO) build --release --locked

# Real guests die in every way there is; a table says what the daemon made of each.
demo:
	@tests/install-packages $(BUILD) $(QEMU)
	$(CARGO) build --release --locked --bins --example demo
	@target/release/examples/demo

# The same guests die under the eyes of the original, too.
compare:
	@tests/install-packages $(BUILD) $(QEMU) $(ORIGINAL)
	$(CARGO) build --release --locked --bin ganeti-kvmd --example compare
	@target/release/examples/compare

# The same guests end under a supervisor, once bare and once under kvmd-run.
compare-run:
	@tests/install-packages $(BUILD) $(QEMU)
	@tests/linux_guest/build target/linux_guest
	$(CARGO) build --release --locked --bin kvmd-run --example compare_run
	@target/release/examples/compare_run

# What `quick` and `check` begin with: format, no path of one machine in a committed file, lints,
# and every input kept for the fuzzer.
define FIRST_CHECKS
	@mkdir -p target && rm -f $(NOT_RUN) $(FIGURES)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	@NOT_RUN=$(NOT_RUN) tests/committed-paths
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --test '*' --locked -- -D warnings
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml --target-dir target --all-targets --no-default-features --locked -- -D warnings
	$(CARGO) test --manifest-path fuzz/Cargo.toml --quiet --target-dir target --no-default-features --locked
endef

# The inner loop: the above, unit and property tests. Nothing in it needs QEMU.
quick:
	@tests/install-packages $(BUILD)
	$(FIRST_CHECKS)
	$(CARGO) test --workspace --lib --quiet --locked
	@echo "Not run: the end-to-end tests in tests/, the fuzzer, packaging/check. \`make check\` runs them."

# All of that, the end-to-end tests, the fuzzer and what is packed. The end-to-end tests need root,
# for the kernel's proc connector: without it, those that cannot run are named at the end.
check:
	@tests/install-packages $(BUILD) $(QEMU) $(TESTS) $(ORIGINAL) $(GANETI)
	@tests/linux_guest/build target/linux_guest
	@tests/prometheus target/prometheus promtool
	@tests/openrc/build target/openrc
	$(FIRST_CHECKS)
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=5
	@FIGURES=$(FIGURES) $(MAKE) --no-print-directory every-order
	NOT_RUN=$(NOT_RUN) FIGURES=$(FIGURES) $(CARGO) test --workspace --locked
	@echo; echo "The contract, played on the original: it is to fail where DEVIATIONS.md says so."
	NOT_RUN=$(NOT_RUN) KVMD_UNDER_TEST=theirs TESTBED_PATIENCE=10 \
		$(CARGO) test --quiet --locked --test compliance
	@echo; NOT_RUN=$(NOT_RUN) packaging/check
	@echo; echo "What it was put through:"; \
		awk -F '|' '{ printf "  %-62s %s\n", $$1, $$2 }' $(FIGURES)
	@if [ -s $(NOT_RUN) ]; then \
		echo; echo "Not run on this machine:"; sort -u $(NOT_RUN) | sed 's/^/  /'; \
	else \
		echo; echo "Every test has run."; \
	fi

# The Debian packages, in target/debian.
deb:
	@tests/install-packages $(BUILD) $(PACKAGING)
	$(CARGO) build --release --locked --bins
	@rm -f $(DEB) $(DEB_RUN) $(DEB_WHY)
	@packaging/build-deb target/debian
	lintian --allow-root --fail-on warning $(DEB) $(DEB_RUN) $(DEB_WHY)

# They are installed, upgraded and removed on a Debian with Ganeti; then in a virtual machine, under
# that Debian's own kernel and systemd.
test-deb: deb
	@tests/install-packages $(QEMU) $(DEBIANS)
	@tests/linux_guest/build target/linux_guest
	@packaging/debian-root target/debian/root
	packaging/test-deb $(DEB) $(DEB_WHY) $(DEB_RUN) target/debian/root
	$(CARGO) build --locked --example stand_in_vm
	packaging/test-systemd $(DEB) $(DEB_WHY) target/debian/root target/linux_guest/vmlinuz \
		target/debug/examples/stand_in_vm

# Real clusters of Ganeti, in namespaces of their own, with this project's packages and with the original:
# what gnt-instance list says of instances that ended, and what the watcher does. CLUSTER_PLAY='QA'
# plays those chapters alone whose titles contain a word.
cluster: deb
	@tests/install-packages $(QEMU) $(ORIGINAL) $(GANETI) $(CLUSTER)
	@tests/cluster/packages target/cluster/packages
	@tests/prometheus target/prometheus prometheus promtool prometheus-node-exporter
	CLUSTER_PACKAGE=$$(realpath $(DEB)) CLUSTER_KVMD_WHY=$$(realpath $(DEB_WHY)) $(CARGO) test --locked --test cluster -- $(CLUSTER_PLAY)

# The QEMU and the kernel of each Debian: guests of the one end in every way, and the other boots in an
# emulated machine that runs the tests, on arm64 as well; then a whole Debian that does what README.md
# says. The table goes to docs/platforms.md. PLATFORMS='"QEMU of"' plays those columns alone whose titles
# contain it; PLATFORMS=--page plays none, and writes the page of the columns that are kept.
platforms:
	@tests/install-packages $(BUILD) $(QEMU) $(DEBIANS) $(ARM64)
	@tests/linux_guest/build target/linux_guest
	$(CARGO) test --workspace --locked --no-run
	$(CARGO) build --locked --bins --examples
	$(CARGO) test --locked --test platforms -- $(PLATFORMS)

# What packaging/check uses if it is there, and what takes long to build.
tools:
	$(CARGO) install cargo-deny --locked --root target/tools

# Against the original, forkstat and extrace: memory, CPU, delays. On a quiet machine, as root.
bench: bench-programs
	@target/release/examples/bench

# How it grows with the number of virtual machines; a table and a picture of it.
bench-scale: bench-programs
	@tests/install-packages $(PLOT)
	@target/release/examples/bench --scale docs/scale.csv
	@/usr/bin/python3 examples/bench/plot.py docs/scale.csv docs/scale.svg

# What Prometheus carries for so many nodes, in so many minutes: the figures in docs/fleet.md.
FLEET ?= 10000 20

bench-fleet:
	@tests/install-packages $(BUILD)
	@tests/prometheus target/prometheus prometheus
	$(CARGO) build --release --locked --bin ganeti-kvmd
	@examples/bench/fleet target/prometheus/prometheus target/release/ganeti-kvmd $(FLEET)

# What `kvmd-why --html` makes, as README.md shows it.
picture:
	@tests/install-packages $(BUILD) chromium:chromium pngquant:pngquant
	PICTURE=$(CURDIR)/docs/ends.png $(CARGO) test --locked --test page picture
	pngquant --force --ext .png docs/ends.png

# What each crate costs in the program, and how long that takes to start.
size:
	@tests/install-packages $(BUILD) nm:binutils
	$(CARGO) build --release --locked --bin ganeti-kvmd
	@examples/bench/size target/release/ganeti-kvmd

bench-programs:
	@tests/install-packages $(BUILD) $(PEERS) $(ORIGINAL)
	$(CARGO) build --release --locked --bin ganeti-kvmd --bin kvmd-why --example bench --example bench_vm
	@$(CC) -O2 -Wall -o target/release/examples/fork_storm examples/bench/fork_storm.c

# Every order in which the sources can report each way to end: half a minute. EVERY_ORDER=deep has
# the daemon restarted twice in one life, and takes minutes.
every-order:
	@tests/install-packages $(BUILD)
	$(CARGO) test --profile search --locked --test every_order -- --nocapture

# Does a test fail if the code is wrong? Changes src/verdict and src/wire in a thousand small ways,
# one at a time: some hours on two cores. MUTANTS='--re src/verdict/cause' for one file. What is
# let live, and why, is in .cargo/mutants.toml.
mutants:
	@tests/install-packages $(BUILD)
	@[ -x target/tools/bin/cargo-mutants ] || $(CARGO) install cargo-mutants --locked --root target/tools
	PATH=target/tools/bin:$$PATH PROPTEST_CASES=40 $(CARGO) mutants -o target -j 2 $(MUTANTS)

# Any bytes for whatever reads what others write, so many seconds each; see fuzz/README.md.
FUZZ_SECONDS ?= 15

fuzz:
	@tests/install-packages $(BUILD) c++:g++
	@FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run

clean:
	$(CARGO) clean
