# SPDX-License-Identifier: GPL-2.0
#
# Builds, boots, tests and measures binder_rs.ko; "make help" says how. What
# the machine lacks for that is set up first (scripts/setup) and kept in
# ${BINDER_RS_CACHE:-/var/cache/binder-rs}; what is built goes to build/.
#
# The driver itself is built by the kernel's own rules and needs none of this:
#
#     make -C <kernel build> M=$PWD/drivers/android/binder

CACHE    := $(or $(BINDER_RS_CACHE),/var/cache/binder-rs)
KERNEL   := $(CACHE)/kernels/$(or $(KVER),default)
DRIVER   := $(CURDIR)/drivers/android/binder
PROGRAMS := $(CURDIR)/tools/testing/selftests/binder
O        := $(CURDIR)/build
RELEASE  := $(O)/selftests/x86_64-unknown-linux-gnu/release

IN_ROOT := $(CURDIR)/scripts/in-root
KBUILD  := $(IN_ROOT) $(MAKE) --no-print-directory -C $(KERNEL)/build \
	CC=x86_64-linux-gnu-gcc-14 CROSS_COMPILE=x86_64-linux-gnu- M=$(DRIVER)
CARGO   := cd $(PROGRAMS) && $(IN_ROOT) cargo

export KVER
# Neither the jobs of this make nor its variables are those of the root's.
unexport MAKEFLAGS MAKEOVERRIDES

.PHONY: all setup update driver programs programs32 run shell test test-debug test-kcsan test-clients test-long mutants fuzz \
	kunit bench profile check clippy clean help
.NOTPARALLEL:

all: driver

setup:
	@scripts/setup

update:
	@scripts/setup --update

# Built anew from the ground up for another kernel: the rules of the kernel do
# not see that the tree they are read from is another one.
driver: setup
	@mkdir -p $(O)/driver
	@if [ "$$(cat $(O)/driver/.kernel 2>/dev/null)" != "$$(readlink -f $(KERNEL))" ]; then \
		rm -rf $(O)/driver && mkdir $(O)/driver && readlink -f $(KERNEL) >$(O)/driver/.kernel; \
	fi
	@flock $(O)/driver/.kernel $(KBUILD) MO=$(O)/driver modules

programs: setup
	@$(CARGO) build --quiet --release --locked --target-dir $(O)/selftests

# The behaviour tests as a 32-bit program: another struct layout would show.
# What they need may be missing from the archive; scripts/test says so then.
programs32: setup
	@scripts/setup --i386
	@test -e $(CACHE)/i386-missing || { \
		$(CARGO) build --quiet --release --locked --target i686-unknown-linux-gnu \
		--package binder-test --target-dir $(O)/selftests; \
	}

run: driver programs
	@scripts/vm --icount --log $(O)/run.log --module 'binder_rs.ko devices=binder' \
		--file $(RELEASE)/binder-demo -- binder-demo --device /dev/binder

shell: driver programs
	@scripts/vm --shell --log $(O)/shell.log --module binder_rs.ko \
		--file $(RELEASE)/binder-demo --file $(RELEASE)/binder-test --file $(RELEASE)/binder-bench

# STAGE and FILTER choose from the tests, see scripts/test. The driver is built
# beside the programs: most of its time goes by on one processor.
test: setup
	@scripts/setup --checks
	@$(MAKE) --no-print-directory driver & driver=$$!; \
		$(MAKE) --no-print-directory programs programs32; status=$$?; \
		wait $$driver && exit $$status
	@scripts/test $(STAGE:%=--only %) $(FILTER)

# In a kernel that notices more, and that can be made to fail.
test-debug: programs
	@scripts/test --only debug-planted --only debug-kunit --only debug --only debug-reclaim --only debug-faults $(FILTER)

# In a kernel that notices when two threads meet.
test-kcsan: programs
	@scripts/test --only races-planted --only races $(FILTER)

# What others wrote that uses binder, on this driver and on the C driver.
test-clients: driver
	@scripts/setup --clients
	@scripts/test --only clients-ours --only clients-c $(FILTER)

# The tests' own test: the driver, broken in one way at a time. ONLY names some of the ways.
mutants: programs
	@scripts/mutants $(ONLY:%=--only %)

# Ten thousand processes killed, the module loaded and unloaded hundreds of times.
test-long: driver programs
	@scripts/test --only long

# Each run begins at another seed, which is printed; FUZZ= says otherwise.
fuzz: driver programs
	@scripts/vm --smp 1 --timeout 1000000 --log $(O)/fuzz.log --module 'binder_linux.ko devices=cbinder' \
		--module 'binder_rs.ko devices=binder' --file $(RELEASE)/binder-fuzz -- \
		binder-fuzz --ours /dev/binder --c /dev/cbinder $(or $(FUZZ),--forever --seed $(shell date +%s)000)

kunit: setup
	@scripts/kunit

# The C driver first: it does not load where its netlink family's name is taken.
bench: driver programs
	@scripts/vm --icount --timeout 1200 --log $(O)/bench.log --module 'binder_linux.ko devices=cbinder' \
		--module 'binder_rs.ko devices=binder' --file $(RELEASE)/binder-bench -- \
		binder-bench --ours /dev/binder --c /dev/cbinder

profile: driver programs
	@scripts/profile $(PROFILE)

check clippy:
	@scripts/setup --checks
	@scripts/check

clean:
	rm -rf $(O)

help:
	@echo 'As root, on Debian 12 or 13; the first run sets up what is needed.'
	@echo
	@echo '  make            build the driver: build/driver/binder_rs.ko'
	@echo '  make run        load it into the stock kernel in QEMU and demonstrate it'
	@echo '  make shell      a prompt in that kernel, with the driver loaded'
	@echo '  make test       run all tests; STAGE= and FILTER= choose some'
	@echo '  make test-debug the tests in a kernel with KASAN, lockdep and injected failures'
	@echo '  make test-kcsan the tests in a kernel that finds data races; takes long'
	@echo '  make test-clients programs on rsbinder and libgbinder, on both drivers'
	@echo '  make mutants    break the driver in many ways: each must turn a test red; ONLY= names some'
	@echo '  make test-long  what takes long: processes killed, the module unloaded, often'
	@echo '  make fuzz       compare random programs on both drivers, until stopped'
	@echo '  make kunit      run the KUnit tests alone'
	@echo '  make bench      instructions per operation: this driver, the C driver, a socket'
	@echo '  make profile    instructions per call and function of this driver'
	@echo '  make check      formatting and lints of all there is'
	@echo '  make update     take the newest kernel the archive has'
	@echo '  make clean      delete build/'
	@echo
	@echo 'KVER=<version> takes another kernel: scripts/kernels says which.'
	@echo 'The cache: $(CACHE) (BINDER_RS_CACHE=); archive mirror: BINDER_RS_MIRROR=.'
