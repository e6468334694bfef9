# SPDX-License-Identifier: GPL-2.0
"""Clients on python3-gbinder, one for each test, which is named on the command line.

gbinder_client.py TEST [ARGUMENT]...
"""

import os
import signal
import sys
import time

import gbinder
from gbinder_service import ADD
from gbinder_service import CALL_BACK
from gbinder_service import INTERFACE
from gbinder_service import NAME
from gbinder_service import NOTE
from gbinder_service import NOTED
from gbinder_service import READ_ALL
from gbinder_service import REPEAT
from gi.repository import GLib

DUMP = int.from_bytes(b"_DMP", "big")
# Longer than anything takes that is bound to happen on the slowest machine.
PATIENCE = 30


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got!r} instead of {wanted!r}")


def find(manager, name):
    remote, _ = manager.get_service_sync(name)
    if remote is None:
        sys.exit(f"there is no service {name}")
    return remote


def call(client, code, fill=lambda _: None):
    request = client.new_request()
    fill(request)
    reply, status = client.transact_sync_reply(code, request)
    check("the status of the call", status, 0)
    return reply.init_reader()


def run_until(what, done):
    """Runs the main loop until something holds."""
    loop = GLib.MainLoop()
    began = time.monotonic()

    def look():
        if done() or time.monotonic() > began + PATIENCE:
            loop.quit()
        return True

    GLib.timeout_add(20, look)
    loop.run()
    check(what, bool(done()), True)


def strings(_manager, client):
    for text in ("a", "Grüße, 世界", "long " * 10000):
        check("the text", call(client, REPEAT, lambda r, t=text: r.append_string16(t)).read_string16(), text)


def numbers(_manager, client):
    def fill(request):
        request.append_int32(7)
        request.append_int64(1 << 40)

    check("the sum", call(client, ADD, fill).read_int64(), (True, 7 + (1 << 40)))


def one_way(_manager, client):
    for number in range(200):
        request = client.new_request()
        request.append_int32(number)
        check("the status", client.transact_sync_oneway(NOTE, request), 0)
    wanted = ",".join(map(str, range(200)))
    began = time.monotonic()
    noted = ""
    while noted != wanted and time.monotonic() < began + PATIENCE:
        noted = call(client, NOTED).read_string16()
    check("what came, in its order", noted, wanted)


def file_descriptor(_manager, client):
    for number in range(10):
        reader, writer = os.pipe()
        os.write(writer, f"file {number}".encode())
        os.close(writer)
        text = call(client, READ_ALL, lambda r, f=reader: r.init_writer().append_fd(f)).read_string16()
        check("what they read", text, f"file {number}")
        os.close(reader)


def callback(manager, client):
    heard = []

    def handle(request, _code, _flags):
        heard.append(request.init_reader().read_string16())
        return local.new_reply(), 0

    local = manager.new_local_object([INTERFACE], handle)
    call(client, CALL_BACK, lambda r: r.append_local_object(local))
    run_until("the callback is called", lambda: heard)
    check("what was said", heard[0].startswith("called back by "), True)


def death(manager, client, process):
    """Kills the service, whose process is given."""
    heard = []
    remote = find(manager, NAME)
    remote.add_death_handler(lambda: heard.append(1))
    check("dead already", bool(remote.is_dead()), False)
    os.kill(int(process), signal.SIGKILL)
    run_until("the death notification comes", lambda: heard)
    check("dead now", bool(remote.is_dead()), True)
    _, status = client.transact_sync_reply(REPEAT, client.new_request())
    check("a call to the dead succeeds", status == 0, False)
    run_until("the service manager forgets it", lambda: manager.get_service_sync(NAME)[0] is None)


def rsbinder(manager, _client):
    """Calls a service of rsbinder's: the first method of its interface, which repeats a text."""
    client = gbinder.Client(find(manager, "clients.service"), "clients.IService")
    reader = call(client, 1, lambda r: r.append_string16("from another library"))
    check("the exception", reader.read_int32(), (True, 0))
    check("the text", reader.read_string16(), "from another library")


def dump(manager, _client):
    """Has a service of rsbinder's dump into a pipe."""
    reader, writer = os.pipe()
    # The request begins with no interface.
    client = gbinder.Client(find(manager, "clients.service"), [])
    request = client.new_request()
    request.init_writer().append_fd(writer)
    request.append_int32(1)
    request.append_string16("argument")
    _, status = client.transact_sync_reply(DUMP, request)
    check("the status", status, 0)
    os.close(writer)
    del request
    check("the dump", os.read(reader, 1000), b"clients.service: argument\n")


TESTS = {test.__name__: test for test in (strings, numbers, one_way, file_descriptor, callback, death, rsbinder, dump)}


def main():
    manager = gbinder.ServiceManager("/dev/binder")
    manager.wait(PATIENCE * 1000)
    name = sys.argv[1]
    client = None
    if name not in ("rsbinder", "dump"):
        client = gbinder.Client(find(manager, NAME), INTERFACE)
    TESTS[name](manager, client, *sys.argv[2:])


if __name__ == "__main__":
    main()
