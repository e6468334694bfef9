# SPDX-License-Identifier: GPL-2.0
"""Runs in the guest what others wrote that uses binder, and reports in KTAP.

    run.py [FILTER]...

A service manager, rsbinder's, runs all the while on /dev/binder and
/dev/vndbinder. Each test starts the service that it needs, and all its
programs are gone when it ends. FILTERs choose tests by parts of their names.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

BIN = "/clients"
PYTHON = "/usr/bin/python3"
DEVICE = "/dev/binder"
OTHER_DEVICE = "/dev/vndbinder"
LOGS = "/sys/kernel/debug/binder"
# Longer than anything takes that is bound to happen on the slowest machine.
PATIENCE = 60


class Failed(Exception):
    """A test has failed; the text says why."""


def check(what, got, wanted):
    if got != wanted:
        raise Failed(f"{what}: {got!r} instead of {wanted!r}")


def until(what, done):
    began = time.monotonic()
    while not done():
        if time.monotonic() > began + PATIENCE:
            raise Failed(f"{what}: not in {PATIENCE} s")
        time.sleep(0.05)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def run(*command, text="", status=0):
    """Runs a program to its end; what it wrote to standard output, and to standard error.

    A status of None is any status.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(text, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            # What the driver knows of it, before all is gone.
            state = read(f"{LOGS}/state")
            process.kill()
            out, err = process.communicate()
            raise Failed(f"{' '.join(command)}: no end after {PATIENCE} s\n{out}{err}{state}") from error
    if status is not None and process.returncode != status:
        raise Failed(f"{' '.join(command)}: status {process.returncode}\n{out}{err}")
    return out, err


class Program:
    """A program that runs beside the test, and is killed at its end."""

    def __init__(self, *command, env=None):
        self.command = command
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the program
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.file, stderr=subprocess.STDOUT, text=True, env=env
        )

    def output(self):
        return read(f"/proc/self/fd/{self.file.fileno()}")

    def wait_for(self, pattern):
        """Waits until it has written something."""

        def there():
            if re.search(pattern, self.output()):
                return True
            if self.process.poll() is not None:
                raise Failed(f"{self.command[0]} has ended: {self.process.returncode}\n{self.output()}")
            return False

        try:
            until(f"{self.command[0]} writes {pattern!r}", there)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.output()}") from failure

    def say(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.file.close()


@contextlib.contextmanager
def service_manager(device):
    """A service manager; it tells as it would tell systemd that it is there."""
    path = f"/tmp/notify.{os.path.basename(device)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(PATIENCE)
        environment = dict(os.environ, NOTIFY_SOCKET=path, RUST_LOG="error")
        command = [f"{BIN}/rsb_hub", "--insecure-allow-all", "--device", os.path.basename(device)]
        with Program(*command, env=environment) as program:
            try:
                while b"READY=1" not in notify.recv(1000):
                    pass
            except TimeoutError as error:
                raise Failed(f"no service manager on {device}: {program.output()}") from error
            os.unlink(path)
            yield program


@contextlib.contextmanager
def service(name, *command):
    """A service that says when it is ready, or else is waited for by its name."""
    with Program(*command) as program:
        if name is None:
            program.wait_for("ready")
        else:
            until(f"the service {name}", lambda: name in run("/usr/bin/binder-list", "-d", DEVICE)[0].split())
        yield program


def rsbinder_service():
    return service("clients.service", f"{BIN}/rsb-service")


def python_service(*where):
    return service(None, PYTHON, f"{BIN}/gbinder_service.py", *where)


def objects_service():
    return service(None, f"{BIN}/gbinder-objects", "service")


def rsbinder_test(name):
    def test():
        # The client waits for its service by itself: the service manager has to tell it.
        with Program(f"{BIN}/rsb-service") as program:
            try:
                run(f"{BIN}/rsb-client", name)
            except Failed as failure:
                raise Failed(f"{failure}\nthe service: {program.output()}") from failure

    return test


def python_test(name):
    def test():
        with contextlib.ExitStack() as stack:
            arguments = []
            if name in ("rsbinder", "dump"):
                stack.enter_context(rsbinder_service())
            else:
                program = stack.enter_context(python_service())
                arguments = [str(program.process.pid)] if name == "death" else []
            run(PYTHON, f"{BIN}/gbinder_client.py", name, *arguments)

    return test


def objects_test(name):
    def test():
        with objects_service() as program:
            try:
                run(f"{BIN}/gbinder-objects", name)
            except Failed as failure:
                raise Failed(f"{failure}\nthe service: {program.output()}") from failure

    return test


def listing():
    """binder-list, at once and asynchronously."""
    with rsbinder_service(), python_service():
        for way in ([], ["--async"]):
            out, _ = run("/usr/bin/binder-list", "-d", DEVICE, *way)
            wanted = ["clients.async", "clients.python", "clients.service", "manager"]
            check("what is listed", sorted(out.split()), wanted)


def ping():
    """binder-ping of services of both libraries, and of none."""
    with rsbinder_service(), python_service():
        for name in ("clients.service", "clients.python", "manager"):
            run("/usr/bin/binder-ping", "-d", DEVICE, name)
    run("/usr/bin/binder-ping", "-d", DEVICE, "clients.none", status=1)


def calling():
    """binder-call, with what AIDL and what HIDL carries."""
    aidl = ["/usr/bin/binder-call", "-d", DEVICE, "--aidl"]
    with rsbinder_service():
        # Its status says nothing.
        out, _ = run(*aidl, "clients.service", "1", '"some text"u', "reply", "i32", "s16", status=None)
        check("a text", out.strip(), '0 "some text"U')
    with objects_service():
        hidl = ["/usr/bin/binder-call", "-d", DEVICE, "clients.objects", "3"]
        out, _ = run(*hidl, '"one"h', '[ "two"h "three"h ]', "reply", "i32", "hstr", "[ hstr ]", status=None)
        check("strings", re.findall(r'"(\w+)"', out), ["one", "two", "three"])


def bridge():
    """binder-bridge between two devices: calls, and files in them."""
    name, interface = "clients.python", "clients.IPython"
    with service_manager(OTHER_DEVICE), python_service(OTHER_DEVICE, f"{interface}/{name}"):
        with Program("/usr/bin/binder-bridge", "--verbose", DEVICE, OTHER_DEVICE, name, interface) as program:
            try:
                until("the bridge", lambda: name in run("/usr/bin/binder-list", "-d", DEVICE)[0].split())
            except Failed as failure:
                raise Failed(f"{failure}\n{program.output()}") from failure
            for test in ("strings", "numbers", "one_way", "file_descriptor"):
                run(PYTHON, f"{BIN}/gbinder_client.py", test)


def nothing_left():
    """After every process has exited, the driver holds what an unused driver holds: nothing."""

    def totals():
        text = read(f"{LOGS}/stats").split("proc ", maxsplit=1)[0]
        return dict(re.findall(r"^(\w+): active (\d+)", text, re.MULTILINE))

    try:
        until("nothing is left", lambda: not any(int(count) for count in totals().values()))
    except Failed as failure:
        raise Failed(f"{failure}: {totals()}") from failure


def all_tests():
    """The tests by name, in their order; the last one after the service manager has gone."""
    tests = {}
    for name in run(f"{BIN}/rsb-client")[0].split():
        tests[f"rsbinder.{name}"] = rsbinder_test(name)
    tests |= {"gbinder.list": listing, "gbinder.ping": ping, "gbinder.call": calling, "gbinder.bridge": bridge}
    for name in ("buffers", "fd", "fd_array", "empty_fd_array", "hidl", "everything", "call_back"):
        tests[f"gbinder.{name}"] = objects_test(name)
    for name in ("strings", "numbers", "one_way", "file_descriptor", "callback", "death", "rsbinder", "dump"):
        tests[f"gbinder.python_{name}"] = python_test(name)
    return tests


def attempt(number, name, test):
    try:
        test()
    except Failed as failure:
        print("".join(f"# {line}\n" for line in str(failure).splitlines()), end="")
        print(f"not ok {number} {name}", flush=True)
        return False
    print(f"ok {number} {name}", flush=True)
    return True


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    tests = all_tests()
    filters = sys.argv[1:]
    if filters:
        tests = {name: test for name, test in tests.items() if any(part in name for part in filters)}
    print(f"KTAP version 1\n1..{len(tests) + 1}", flush=True)
    good = []
    with service_manager(DEVICE):
        for number, (name, test) in enumerate(tests.items(), 1):
            good.append(attempt(number, name, test))
    good.append(attempt(len(tests) + 1, "clients.nothing_left", nothing_left))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
