# SPDX-License-Identifier: GPL-2.0
"""A service on python3-gbinder: strings, numbers, files, one-way calls and callbacks.

gbinder_service.py [DEVICE NAME]
"""

import os
import sys

import gbinder
from gi.repository import GLib

NAME = "clients.python"
INTERFACE = "clients.IPython"
REPEAT, ADD, NOTE, NOTED, READ_ALL, CALL_BACK = range(1, 7)


class Service:
    def __init__(self, device, name):
        self.manager = gbinder.ServiceManager(device)
        self.manager.wait(30000)
        self.object = self.manager.new_local_object([INTERFACE], self.handle)
        self.notes = []
        status = self.manager.add_service_sync(name, self.object)
        if status:
            sys.exit(f"the service manager says {status}")

    def handle(self, request, code, _flags):
        """Returns the reply and the status of a call, as the library wants it."""
        reply = self.object.new_reply()
        reader = request.init_reader()
        if code == REPEAT:
            reply.append_string16(reader.read_string16())
        elif code == ADD:
            reply.append_int64(reader.read_int32()[1] + reader.read_int64()[1])
        elif code == NOTE:
            self.notes.append(reader.read_int32()[1])
        elif code == NOTED:
            reply.append_string16(",".join(map(str, self.notes)))
        elif code == READ_ALL:
            with open(reader.read_dup_fd(), encoding="utf-8") as file:
                reply.append_string16(file.read())
        elif code == CALL_BACK:
            # In its own time: the caller waits for the callback in a loop of its own.
            client = gbinder.Client(reader.read_object(), INTERFACE)
            message = client.new_request()
            message.append_string16(f"called back by {os.getpid()}")
            client.transact_sync_oneway(REPEAT, message)
        return reply, 0


def main():
    service = Service(*(sys.argv[1:] or ("/dev/binder", NAME)))
    print("ready", flush=True)
    GLib.MainLoop().run()
    del service


if __name__ == "__main__":
    main()
