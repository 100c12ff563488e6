"""Puts made-up values in the place of what a capture says of the machine it was made on.

Equal values stay equal, in all captures of one run: a real pid has one made-up pid. Times keep their
distances and begin at a made-up moment. What is left as it was: how long things took, and which
versions of QEMU and of the kernel spoke.

A form that is not known here is refused, with its place: it may hold something of the machine.
"""

import json
import os
import pathlib
import re
import struct
import sys
import time

# The boot that src/state_file.rs takes for its own, and ...
BOOT = "00000000-0000-0000-0000-000000000000"
# ... when the captures begin, in seconds since that boot: a little before its NOW.
UPTIME = 999_900
# The same moment in seconds since 1970.
TIME = 1_000_000_000
FIRST_PID = 1001
FIRST_INODE = 101
FIRST_EVENT_ID = 1001
PACKAGE = "made-up-1"
# Of the processes that led to a sender of a signal so many are kept.
MOST_ANCESTORS = 2

SECOND = 1_000_000_000


class Unknown(Exception):
    """A form of which it is not known what of the machine it holds."""


class Disguise:
    def __init__(self):
        self.begin = {clock: time.clock_gettime_ns(clock)
                      for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME)}
        # For each kind of value: the real ones, and what is said in their place.
        self.made_up = {}

    def number(self, kind, real, first):
        """One for each real number of this kind, counted up. Nothing has the number 0."""
        numbers = self.made_up.setdefault(kind, {})
        return real and numbers.setdefault(real, first + len(numbers))

    def pid(self, real):
        return self.number("pid", real, FIRST_PID)

    def moment(self, real, clock=time.CLOCK_MONOTONIC, begin=UPTIME):
        """All in nanoseconds but `begin`. What lies before the beginning is a duration."""
        return real - self.begin[clock] + begin * SECOND if real >= self.begin[clock] else real

    def name(self, real):
        """Of a process."""
        return f"process-{self.number('name', real, 1)}"

    # The state file and QMP: JSON.

    def json_lines(self, text, form, separators):
        """`form` makes a value of this machine one of no machine."""
        made_up = []
        for line in text.splitlines(keepends=True):
            value = json.loads(line)
            end = line[len(line.rstrip()):]
            if json.dumps(value, separators=separators).encode() + end != line:
                raise Unknown(f"this is spelt in an unexpected way: {line!r}")
            made_up.append(json.dumps(form(value), separators=separators).encode() + end)
        return b"".join(made_up)

    def state_file(self, text):
        return self.json_lines(text, self.remembered, (",", ":"))

    def qmp_stream(self, text):
        return self.json_lines(text, self.said, (", ", ": "))

    def remembered(self, value, key="", plain=(
            "version", "major", "minor", "micro", "Last", "Over", "incarnation", "signal",
            "status")):
        """`key` is that under which the value is found. Numbers below `plain` ones stay."""
        match value:
            case {"secs": seconds, "nanos": nanoseconds, **rest} if not rest:
                real = seconds * SECOND + nanoseconds
                # QEMU's own times are of the clock on the wall.
                made_up = (self.moment(real, time.CLOCK_REALTIME, TIME) if key in ("stamp", "reset")
                           else self.moment(real))
                seconds, nanoseconds = divmod(made_up, SECOND)
                return {"secs": seconds, "nanos": nanoseconds}
            case {} if key == "sender":
                return self.sender(value)
            case {}:
                return {key: self.remembered(below, key) for key, below in value.items()}
            # An instance's, given to it by `capture`.
            case [119, 101, 98, 49 | 50] if key == "name":
                return value
            case []:
                return value
            case [*values] if key != "name":
                return [self.remembered(below, key) for below in values]
            case bool() | None:
                return value
            case int() if key == "pid":
                return self.pid(value)
            case int() if key == "inode":
                return self.number("inode", value, FIRST_INODE)
            # In clock ticks.
            case int() if key == "started":
                tick = SECOND // os.sysconf("SC_CLK_TCK")
                return self.moment(value * tick, time.CLOCK_BOOTTIME) // tick
            case int() if key in plain:
                return value
            case str() if key == "boot":
                return BOOT
            # Of an enumeration.
            case str() if re.fullmatch("[A-Z][A-Za-z]+", value):
                return value
        raise Unknown(f"{value!r} below {key!r} in the state file")

    def sender(self, sender):
        """Of a signal."""
        known = {"kernel", "pid", "gone", "name", "uid", "login", "executable", "command",
                 "ancestors"}
        if sender.keys() != known:
            raise Unknown(f"{sender.keys() ^ known} in a sender in the state file")
        made_up = dict(sender)
        made_up["pid"] = sender["pid"] and self.pid(sender["pid"])
        made_up["uid"] = sender["uid"] and 1000
        made_up["login"] = sender["login"] and 1000
        name = made_up["name"] = sender["name"] and self.name(sender["name"])
        made_up["executable"] = sender["executable"] and f"/made-up/{name}"
        made_up["command"] = sender["command"] and f"{name} --made-up"
        made_up["ancestors"] = [
            {"pid": self.pid(ancestor["pid"]), "name": self.name(ancestor["name"]),
             "command": f"{self.name(ancestor['name'])} --made-up"}
            for ancestor in sender["ancestors"][:MOST_ANCESTORS]]
        return made_up

    def said(self, value, key=""):
        match value:
            case {"seconds": seconds, "microseconds": microseconds, **rest} if not rest:
                real = seconds * SECOND + microseconds * 1000
                made_up = self.moment(real, time.CLOCK_REALTIME, TIME)
                return {"seconds": made_up // SECOND, "microseconds": made_up % SECOND // 1000}
            case {}:
                return {key: self.said(below, key) for key, below in value.items()}
            case [*values]:
                return [self.said(below, key) for below in values]
            case bool():
                return value
            case int() if key in ("major", "minor", "micro"):
                return value
            case str() if key == "package":
                return PACKAGE
            # Of an enumeration.
            case str() if re.fullmatch("[A-Z_]+|[a-z-]+", value):
                return value
        raise Unknown(f"{value!r} below {key!r} in what QEMU says")

    # The proc connector: linux/netlink.h, linux/connector.h and linux/cn_proc.h.

    # What an event holds, by its `what`: pids, words that stay, a name.
    EVENTS = {
        0: "w",
        0x1: "pppp",
        0x2: "pp",
        0x4: "ppww",
        0x40: "ppww",
        0x80: "pp",
        0x100: "pppp",
        0x200: "ppn",
        0x4000_0000: "pppp",
        0x8000_0000: "ppwwpp",
    }

    def connector_datagram(self, datagram):
        head = list(struct.unpack_from("=IHHII IIIIHH IIQ", datagram))
        what, at = head[11], struct.calcsize("=IHHII IIIIHH IIQ")
        # How much the CPU's tasks have done since the boot, twice; which CPU it is; when.
        head[3] = head[7] = self.number("sequence", head[3], 1)
        head[12] = 0
        head[13] = self.moment(head[13])
        made_up = struct.pack("=IHHII IIIIHH IIQ", *head)
        for part in self.EVENTS.get(what) or self.refuse(f"event {what:#x} of the proc connector"):
            size = 16 if part == "n" else 4
            real, at = datagram[at:at + size], at + size
            match part:
                case "p":
                    made_up += struct.pack("=I", self.pid(*struct.unpack("=I", real)))
                case "n":
                    made_up += self.field_of_name(real)
                case _:
                    made_up += real
        if any(datagram[at:]):
            self.refuse(f"bytes after event {what:#x} of the proc connector")
        return made_up + datagram[at:]

    # The trace: linux/ring_buffer.h, and the kernel's format files.

    def format(self, text):
        """A format file, in which the number of the event depends on how the kernel was built."""
        return re.sub(rb"(?m)^ID: (\d+)$", lambda found: b"ID: %d" % self.event_id(found[1]), text)

    def event_id(self, real):
        return self.number("event id", int(real), FIRST_EVENT_ID)

    def trace_page(self, page, formats):
        """`formats` are the kernel's own, with the real numbers."""
        if sys.byteorder != "little":
            self.refuse("a page of the trace of a big-endian machine")
        layouts = {}
        for text in formats:
            fields = re.findall(rb"field:[^;]*?(\w+)(?:\[\d*\])?;\toffset:(\d+);\tsize:(\d+)", text)
            real, = re.findall(rb"(?m)^ID: (\d+)$", text)
            layouts[int(real)] = {name.decode(): (int(offset), int(size))
                                  for name, offset, size in fields}
        begin, commit = struct.unpack_from("=QQ", page)
        made_up = struct.pack("=QQ", self.moment(begin), commit)
        at = len(made_up)
        while at < len(page):
            header, = struct.unpack_from("=I", page, at)
            kind, at = header & 0x1f, at + 4
            made_up += struct.pack("=I", header)
            if kind == 30:
                # So much time has passed.
                made_up += page[at:at + 4]
                at += 4
            elif 1 <= kind <= 28:
                made_up += self.trace_event(page[at:at + 4 * kind], layouts)
                at += 4 * kind
            else:
                self.refuse(f"an entry of kind {kind} in a page of the trace")
        return made_up

    def trace_event(self, event, layouts):
        real, = struct.unpack_from("=H", event)
        layout = layouts.get(real) or self.refuse(f"event {real} of the trace")
        made_up = bytearray(len(event))
        for name, (offset, size) in layout.items():
            field = event[offset:offset + size]
            match name:
                case "common_type":
                    field = struct.pack("=H", self.event_id(real))
                case "common_pid" | "pid":
                    field = struct.pack("=i", self.pid(*struct.unpack("=i", field)))
                case "comm":
                    field = self.field_of_name(field)
                case "common_flags" | "common_preempt_count" | "sig" | "errno" | "code" | "group" \
                        | "result":
                    pass
                case _:
                    self.refuse(f"field {name} of an event of the trace")
            made_up[offset:offset + size] = field
        return bytes(made_up)

    def field_of_name(self, real):
        return self.name(real.split(b"\0")[0].decode(errors="replace")).encode().ljust(16, b"\0")

    def refuse(self, what):
        raise Unknown(what)


def of_this_machine(*more):
    """Texts that no capture may hold (names of the machine, its kernel and its user, paths, the
    environment), and what each is."""
    machine = os.uname()
    texts = {machine.nodename: "the host's name", machine.release: "the kernel's release",
             machine.version: "the kernel's version", os.getcwd(): "the working directory",
             str(pathlib.Path.home()): "the home directory",
             sys.executable: "python", os.path.realpath(sys.executable): "python",
             **{str(path): "a path" for path in more}}
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        if os.path.exists(path):
            texts[pathlib.Path(path).read_text(encoding="utf-8").strip()] = path
    for key, value in os.environ.items():
        texts.update({part: f"${key}" for part in value.split(":")})
    # Shorter ones, such as a host called `vm`, are in everything.
    return {text: what for text, what in texts.items()
            if len(text) >= (4 if text.startswith("/") else 6)}
