"""Where an emulated machine's instructions go: looks at its processors' program counters through QEMU's monitor.

With time counting instructions an emulated processor never waits, so samples at even intervals of real time fall where
instructions are executed. dom0 is alone on processor 0, the guest on processor 1, Xen on both (see Tests/XenRig/boot).
"""

import bisect
import collections
import json
import re
import socket
import threading
import time

# Where a 64-bit Xen and a paravirtual Linux lie (xen/include/asm/config.h, Documentation/x86/x86_64/mm.rst).
XEN, XEN_END, USER_END = 0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000, 1 << 47
PERIOD_SECONDS = 0.01


class Monitor:
    """QEMU's machine protocol, as far as it is needed to ask for registers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rw")
        self.stream.readline()  # the greeting
        self.call("qmp_capabilities")

    def call(self, name, **arguments):
        self.stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "event" not in answer:
                return answer["return"]

    def program_counters(self):
        """Pairs of processor and address, without those that are halted."""
        text = self.call("human-monitor-command", **{"command-line": "info registers -a"}).replace("\r", "")
        for cpu, registers in re.findall(r"CPU#(\d+)\n(.*?)(?=CPU#|\Z)", text, re.DOTALL):
            if "HLT=1" not in registers:
                yield int(cpu), int(re.search(r"RIP=([0-9a-f]+)", registers)[1], 16)


class Sampler(threading.Thread):
    """Samples as long as the process runs; `phase` says what the machine is doing just now, None for nothing of interest."""

    def __init__(self, path, phase):
        super().__init__(daemon=True)
        self.path, self.phase = path, phase
        self.samples = collections.defaultdict(collections.Counter)

    def run(self):
        while True:
            try:
                self.follow(Monitor(self.path))
            except (OSError, ValueError, KeyError):
                time.sleep(0.5)  # QEMU is not there yet, or ended: a boot that hangs is repeated

    def follow(self, monitor):
        while True:
            time.sleep(PERIOD_SECONDS)
            phase = self.phase()
            if phase:
                self.samples[phase].update(monitor.program_counters())


class Symbols:
    """Names of kernel addresses, from /proc/kallsyms."""

    def __init__(self, lines):
        known = sorted((int(words[0], 16), words[2]) for words in map(str.split, lines) if words[1] in "tTwW")
        self.addresses = [address for address, _ in known]
        self.names = [name for _, name in known]

    def name(self, address):
        return self.names[max(bisect.bisect(self.addresses, address) - 1, 0)]


def place(cpu, address):
    """Whose instruction it is."""
    if XEN <= address < XEN_END:
        return "Xen"
    domain = "dom0" if cpu == 0 else "guest"
    return f"{domain} user" if address < USER_END else f"{domain} kernel"


def shares(samples):
    """Fractions of all samples by place."""
    counts = collections.Counter()
    for (cpu, address), count in samples.items():
        counts[place(cpu, address)] += count
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.most_common()}


def functions(samples, symbols, wanted):
    """Fractions of all samples by kernel function, of one place."""
    counts = collections.Counter()
    for (cpu, address), count in samples.items():
        if place(cpu, address) == wanted:
            counts[symbols.name(address)] += count
    total = sum(samples.values()) or 1
    return {name: count / total for name, count in counts.most_common(15)}


def described(backend, samples, symbols, rate):
    """A paragraph: who executes, and what in dom0's kernel."""
    lines = [f"{backend}: {rate:,.0f} a second, {sum(samples.values())} samples"]
    lines += [f"  {share:6.1%}  {name}" for name, share in shares(samples).items()]
    lines += [f"    {share:6.1%}  {name}" for name, share in functions(samples, symbols, "dom0 kernel").items()]
    return "\n".join(lines)
