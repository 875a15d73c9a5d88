"""Where an emulated machine's instructions go: counts them by function, with a plugin for QEMU (instructions.c).

dom0 is alone on processor 0, the guest on processor 1, Xen on both (see Tests/XenRig/boot).
"""

import bisect
import collections
import pathlib
import socket
import subprocess
import threading
import time

# Where a 64-bit Xen and a paravirtual Linux lie (xen/include/asm/config.h, Documentation/x86/x86_64/mm.rst).
XEN, XEN_END, USER_END = 0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000, 1 << 47
PERIOD_SECONDS = 0.05


def build(directory):
    """Compiles the plugin and returns its path."""
    source, plugin = pathlib.Path(__file__).with_suffix(".c"), pathlib.Path(directory) / "instructions.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", plugin, source], check=True)
    return plugin


def counted(path):
    """What the plugin has counted so far, as it says it."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(str(path))
        return stream.makefile("r").read()


def parsed(lines):
    """Instructions by processor and address of their block."""
    result = collections.Counter()
    for address, instructions, *executions in map(str.split, lines):
        for cpu, times in enumerate(executions):
            result[cpu, int(address, 16)] += int(instructions) * int(times)
    return result


class Counts(threading.Thread):
    """Counts by phase, as long as the process runs; `phase` says what the machine is doing just now, None for nothing of
    interest."""

    def __init__(self, path, phase):
        super().__init__(daemon=True)
        self.path, self.phase = path, phase
        self.texts = collections.defaultdict(list)

    def executed(self, phase):
        """Instructions of a phase by processor and address."""
        total = collections.Counter()
        for before, after in self.texts[phase]:
            # Most blocks were not executed meanwhile: their lines are the same.
            before, after = set(before.splitlines()), set(after.splitlines())
            total.update(parsed(after - before))
            total.subtract(parsed(before - after))
        return total

    def run(self):
        last = None
        while True:
            time.sleep(PERIOD_SECONDS)
            phase = self.phase()
            if phase == last:
                continue
            try:
                now = counted(self.path)
            except OSError:
                continue  # QEMU is not there yet, or ended: a boot that hangs is repeated
            if last:
                self.texts[last].append((before, now))
            last, before = phase, now


class Symbols:
    """Names of addresses, from /proc/kallsyms and /proc/xen/xensyms."""

    def __init__(self, lines):
        known = sorted((int(words[0], 16), words[2]) for words in map(str.split, lines) if words[1] in "tTwW")
        self.addresses = [address for address, _ in known]
        self.names = [name for _, name in known]

    def name(self, address):
        return self.names[max(bisect.bisect(self.addresses, address) - 1, 0)]


def place(cpu, address):
    """Whose instruction it is."""
    domain = "dom0" if cpu == 0 else "guest"
    if XEN <= address < XEN_END:
        return f"Xen beside {domain}"
    return f"{domain} user" if address < USER_END else f"{domain} kernel"


def places(executed):
    """Instructions by place, the most first."""
    total = collections.Counter()
    for (cpu, address), count in executed.items():
        total[place(cpu, address)] += count
    return total.most_common()


def functions(executed, symbols, wanted, most):
    """Instructions by kernel or Xen function, of one place."""
    total = collections.Counter()
    for (cpu, address), count in executed.items():
        if place(cpu, address) == wanted:
            total[symbols.name(address)] += count
    return total.most_common(most)


def described(backend, executed, symbols, rate, requests, most=40):
    """A paragraph: who executes, and what in dom0's kernel and in Xen, in instructions per request."""
    lines = [f"{backend}: {rate:,.0f} a second, {sum(executed.values()) / requests:,.0f} instructions per request"]
    for name, count in places(executed):
        lines.append(f"  {count / requests:9,.0f}  {name}")
        if not name.endswith("user") and not name.startswith("guest"):
            lines += [f"    {share / requests:9,.0f}  {function}" for function, share in functions(
                executed, symbols, name, most)]
    return "\n".join(lines)
