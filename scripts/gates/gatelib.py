"""What the gates share: where the release binaries are, how the daemon is run under an instrument, how a gate ends."""

import contextlib
import json
import pathlib
import shlex
import stat
import subprocess
import sys
import tempfile

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
