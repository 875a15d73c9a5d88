"""What the gates share: where the release binaries are, how the daemon is run under an instrument, how a gate ends."""

import contextlib
import collections
import json
import pathlib
import shlex
import stat
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATES = ROOT / "scripts" / "gates"
RELEASE_FLAGS = ["-c", "release", "--static-swift-stdlib"]


def release_binary(name):
    """The path of a release executable, which `make release` has built."""
    directory = subprocess.run(
        ["swift", "build", *RELEASE_FLAGS, "--show-bin-path"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    path = pathlib.Path(directory) / name
    if not path.exists():
        sys.exit(f"{name}: not built: run 'make release' first")
    return path


def null_load(requests, backend=None, depth=32, timeout=300):
    """Serves `requests` 4 KiB random reads of the null volume, both processes on one core; fio-style JSON."""
    command = [
        release_binary("xen-loopback"), "blk", "--volume", "null", "--rw", "randread", "--bs", "4k",
        "--iodepth", depth, "--number-ios", requests, "--cpus", "0,0", "--output-format", "json"]
    if backend:
        command += ["--backend", backend]
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
    if run.returncode != 0:
        sys.exit(f"xen-loopback failed ({run.returncode}):\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout)


def net_load(direction, frames, backend=None, depth=32, timeout=300):
    """Carries `frames` of 64 bytes through a network interface, both processes on one core; xen-loopback's JSON."""
    command = [
        release_binary("xen-loopback"), "net", "--direction", direction, "--packets", frames, "--depth", depth,
        "--cpus", "0,0", "--json"]
    if backend:
        command += ["--backend", backend]
    # A daemon under an instrument on a busy machine may not be ready in the ten seconds that a toolstack waits.
    for _ in range(4):
        run = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
        if run.returncode == 0:
            return json.loads(run.stdout)
    sys.exit(f"xen-loopback failed ({run.returncode}):\n{run.stdout}{run.stderr}")


def allocation_counter(directory, *flags):
    """The library that counts a daemon's allocations."""
    library = directory / ("counter" + "".join(flags) + ".so")
    subprocess.run(
        ["gcc", "-O2", "-fno-builtin", "-shared", "-fPIC", *flags, GATES / "allocation-counter.c", "-o", library],
        check=True)
    return library


def counting_allocations(directory, library, daemon):
    """(an executable that stands for the daemon, where it counts)"""
    counts = directory / "counts"
    counts.unlink(missing_ok=True)
    return wrapper(directory, [], daemon, {"LD_PRELOAD": library, "ALLOCATION_COUNTS": counts}), counts


def allocations_by_thread(counts):
    """[(a thread's name, its allocations)]"""
    rows = struct.iter_unpack("<Q16s", counts.read_bytes()[8:])
    return [(name.split(b"\0")[0].decode(), count) for count, name in rows]


def counting_calls(directory, daemon):
    """(an executable that stands for the daemon, where strace writes what it counted)"""
    summary = directory / "summary"
    summary.unlink(missing_ok=True)
    # -D: strace is the grandchild, so that the daemon keeps the process id that the toolstack knows.
    return wrapper(directory, ["strace", "-D", "-f", "-c", "-o", summary], daemon), summary


def total_calls(summary):
    """The calls column: fourth of a line, and the last line is the total."""
    for _ in range(100):
        if summary.exists() and "total" in summary.read_text():
            return int(summary.read_text().strip().splitlines()[-1].split()[3])
        time.sleep(0.1)
    raise SystemExit("strace wrote no summary")


def counting_instructions(directory, daemon, name):
    """(an executable that stands for the daemon, where callgrind writes what it counted)"""
    # valgrind 3.19 cannot read the debug information of Swift 6.3.
    stripped = directory / daemon.name
    if not stripped.exists():
        subprocess.run(["strip", "-g", daemon, "-o", stripped], check=True)
    output = directory / f"callgrind.{name}"
    command = [
        "valgrind", "-q", "--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no",
        f"--callgrind-out-file={output}"]
    return wrapper(directory, command, stripped), output


def read_callgrind(path):
    """Instructions by (object, function, address)."""
    costs = collections.Counter()
    binary = function = None
    skip = False
    for line in path.read_text().splitlines():
        if line.startswith("ob="):
            binary = line[3:]
        elif line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            skip = True  # the next line is what the callee cost, which is counted there
        elif line.startswith("0x"):
            if not skip:
                address, _, cost = line.split()
                costs[binary, function, int(address, 16)] += int(cost)
            skip = False
    return costs


@contextlib.contextmanager
def workspace():
    """A directory that goes away again."""
    with tempfile.TemporaryDirectory(prefix="gate.") as path:
        yield pathlib.Path(path)


def wrapper(directory, prefix, daemon, environment=None):
    """An executable that stands for the daemon: `prefix` and the daemon, with the arguments that it is given."""
    assignments = [f"{name}={value}" for name, value in (environment or {}).items()]
    command = (["env", *assignments] if assignments else []) + [str(word) for word in prefix] + [str(daemon)]
    path = directory / "wrapped-daemon"
    path.write_text(f'#!/bin/sh\nexec {" ".join(shlex.quote(word) for word in command)} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def config_lines(path):
    """The lines of a gate's list, without comments and empty ones."""
    lines = (line.split(" #")[0].strip() for line in pathlib.Path(path).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def conclude(gate, findings, summary):
    """Ends a gate: with its findings and status 1, or with a one-line summary."""
    for finding in findings:
        print(f"gate {gate}: {finding}", file=sys.stderr)
    if findings:
        sys.exit(1)
    print(f"gate {gate}: {summary}")
