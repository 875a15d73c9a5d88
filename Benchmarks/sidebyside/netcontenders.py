"""The network backend and what it is measured beside; a measurement is a dictionary with `frames_per_cpu_second` or
`bits_per_second`, and `backend_cpu_ns` per frame where there is a backend.

Frames are counted per second of processor time, the frontend's and the backend's together: on one core that nobody else
uses it is the same as the rate, and where others use it two processes do not look faster than one.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tempfile

from .contenders import PEERS, SECONDS, run

# The first processor takes the machine's interrupts.
LAST = (os.cpu_count() or 1) - 1


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames through one interface, both processes on one core."""

    direction: str  # to-tap or from-tap
    frame_bytes: int
    segmented: bool = False
    cpu: int = LAST


@dataclasses.dataclass(frozen=True)
class Stream:
    """One TCP stream of iperf3 from one network namespace to another, everything on one core."""

    cpu: int = LAST


class NetBackend:
    """xen-netbackd, driven by xen-loopback."""

    name = "ours"

    def __init__(self, release):
        self.release = release

    def command(self, workload):
        return [
            self.release / "xen-loopback", "net", "--direction", workload.direction, "--frame", workload.frame_bytes,
            *(["--gso"] if workload.segmented else []), "--seconds", f"{SECONDS:g}",
            "--cpus", f"{workload.cpu},{workload.cpu}", "--json"]

    def measure(self, workload):
        result = json.loads(run(self.command(workload)))
        return {
            "frames_per_cpu_second": result["frames_per_cpu_second"],
            "frames_per_second": result["frames_per_second"], "backend_cpu_ns": result["backend_cpu_ns_per_frame"]}


class PlainCalls:
    """write() into a TAP device, or read() from it."""

    def __init__(self, built, call):
        self.built, self.name, self.mode = built, f"{call}()", call

    def command(self, workload):
        return [
            self.built / "tap_peer", f"mode={self.mode}", f"frame={workload.frame_bytes}",
            f"gso={int(workload.segmented)}", f"seconds={SECONDS:g}", f"cpu={workload.cpu}"]

    def measure(self, workload):
        return json.loads(run(self.command(workload)))


class Relay:
    """Carries frames between two TAP devices in two network namespaces; `name` and `relay` say how."""

    devices = ("near0", "far0")

    def command(self, workload):
        return ["iperf3", "-c", "10.9.0.1", "-t", f"{max(2, SECONDS):g}", "-O", "0.5", "-J"]

    def relay(self, workload, namespaces):
        raise NotImplementedError

    @contextlib.contextmanager
    def carrying(self, workload, namespaces):
        words = ["taskset", "-c", str(workload.cpu)] + [str(word) for word in self.relay(workload, namespaces)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{' '.join(words)}: is not ready")
            yield
        finally:
            process.terminate()
            process.wait()

    def measure(self, workload):
        with two_namespaces() as namespaces, self.carrying(workload, namespaces):
            for number, (namespace, device) in enumerate(zip(namespaces, self.devices), 1):
                run(["ip", "-n", namespace, "address", "add", f"10.9.0.{number}/24", "dev", device])
                run(["ip", "-n", namespace, "link", "set", device, "up"])
            return iperf(workload, namespaces, self.command(workload))


class PlainRelay(Relay):
    """read() and write() between two TAP devices that leave out sums and segmentation."""

    name = "TAP-to-TAP relay"

    def __init__(self, built):
        self.built = built

    def relay(self, workload, namespaces):
        paths = ",".join(f"/run/netns/{name}" for name in namespaces)
        return [
            self.built / "tap_peer", "mode=relay", f"namespaces={paths}", f"names={','.join(self.devices)}",
            f"cpu={workload.cpu}"]


class BackendRelay(Relay):
    """TAP device, xen-netbackd, ring, netfront, TAP device; the daemon at the priority that its unit gives it."""

    name = "ours"
    devices = ("vif1.0", "guest0")

    def __init__(self, release):
        self.release = release
        self.directory = tempfile.TemporaryDirectory(prefix="relay.")
        self.daemon = pathlib.Path(self.directory.name) / "xen-netbackd"
        unit = pathlib.Path(__file__).resolve().parents[2] / "systemd" / "xen-netbackd@.service"
        nice = re.search(r"^Nice=(.*)", unit.read_text(), re.MULTILINE).group(1)
        self.daemon.write_text(f'#!/bin/sh\nexec nice -n {nice} "{pathlib.Path(release).resolve()}/xen-netbackd" "$@"\n')
        self.daemon.chmod(0o755)

    def relay(self, workload, namespaces):
        paths = ",".join(f"/run/netns/{name}" for name in namespaces)
        return [
            self.release / "xen-loopback", "net", "--relay", self.devices[1], "--namespaces", paths,
            "--cpus", f"{workload.cpu},{workload.cpu}", "--backend", self.daemon]


@contextlib.contextmanager
def two_namespaces():
    """Two empty network namespaces, gone afterwards."""
    names = [f"bench{number}-{os.getpid()}" for number in (1, 2)]
    try:
        for name in names:
            run(["ip", "netns", "add", name])
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def iperf(workload, namespaces, client):
    """From the second namespace to a server in the first."""
    inside = [["ip", "netns", "exec", name, "taskset", "-c", str(workload.cpu)] for name in namespaces]
    server = subprocess.Popen(
        inside[0] + ["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout:
            if "Server listening" in line:
                break
        result = json.loads(run(inside[1] + client))
        return {"bits_per_second": result["end"]["sum_received"]["bits_per_second"]}
    finally:
        server.kill()
        server.wait()


def build_net_peers(directory):
    """Compiles the C peer into `directory`."""
    run(["gcc", "-O2", "-Wall", PEERS / "tap_peer.c", "-o", directory / "tap_peer"])
