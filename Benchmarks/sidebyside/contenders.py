"""Everything that is measured side by side: each contender serves one workload once and says how fast it was.

A measurement is a dictionary with `iops` and, where the backend is a process of its own, `backend_cpu_ns` per request.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "Benchmarks" / "peers"
SECONDS = float(os.environ.get("BENCH_SECONDS", "1.5"))
# fio takes a fraction of a second for 0.
RUNTIME = f"{int(SECONDS * 1000)}ms"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is asked of a contender; `cpus` are the frontend's and the backend's."""

    volume: str  # a path, or "null"
    pattern: str  # fio's --rw
    block_bytes: int
    depth: int
    direct: bool
    cpus: tuple


def run(command, **options):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def fio_result(text):
    """IOPS of the one job, from fio's JSON, which xen-loopback writes too."""
    job = json.loads(text[text.index("{"):])["jobs"][0]
    return job, job["read"]["iops"] + job["write"]["iops"]


def ring_order(depth):
    """The smallest ring, as a power of two of pages, with so many native entries (32, 64, ... of them)."""
    return max(0, (depth - 1).bit_length() - 5)


class Ours:
    """xen-blkbackd, driven by xen-loopback."""

    name = "ours"

    def __init__(self, release):
        self.release = release

    def command(self, workload):
        return [
            self.release / "xen-loopback", "blk", "--volume", workload.volume, "--rw", workload.pattern,
            "--bs", workload.block_bytes, "--iodepth", workload.depth, "--runtime", RUNTIME,
            "--direct", int(workload.direct), "--ring-pages", 1 << ring_order(workload.depth),
            "--cpus", "{},{}".format(*workload.cpus), "--output-format", "json"]

    def measure(self, workload):
        job, iops = fio_result(run(self.command(workload)))
        return {"iops": iops, "backend_cpu_ns": job["backend"]["cpu_ns_per_io"]}


class Prototype:
    """The C ring pair of the same shape, copying through bounce buffers as grant copy does."""

    name = "C prototype"

    def __init__(self, built, *options):
        self.built, self.options = built, options

    def command(self, workload):
        return [
            self.built / "blkif_pair", f"volume={workload.volume}", f"rw={workload.pattern}",
            f"bs={workload.block_bytes}", f"depth={workload.depth}", f"ring-order={ring_order(workload.depth)}",
            f"seconds={SECONDS:g}", f"direct={int(workload.direct)}", "cpus={},{}".format(*workload.cpus),
            *self.options]

    def measure(self, workload):
        return json.loads(run(self.command(workload)))


class Fio:
    """fio's io_uring engine on the volume itself, pinned to the frontend's core."""

    name = "fio"

    def command(self, workload):
        return [
            "taskset", "-c", workload.cpus[0], "fio", "--name=run", f"--filename={workload.volume}",
            "--ioengine=io_uring", f"--rw={workload.pattern}", f"--bs={workload.block_bytes}",
            f"--iodepth={workload.depth}", "--iodepth_batch_submit=16", "--iodepth_batch_complete_min=1",
            "--iodepth_batch_complete_max=32", f"--direct={int(workload.direct)}",
            # Or fio would drop the file from the page cache first.
            "--invalidate=0", "--time_based", f"--runtime={RUNTIME}", "--output-format=json"]

    def measure(self, workload):
        return {"iops": fio_result(run(self.command(workload)))[1]}


class StorageDaemon:
    """qemu-storage-daemon's vhost-user-blk, driven by the C client."""

    name = "qemu-storage-daemon"

    def __init__(self, built):
        self.built = built

    def command(self, workload):
        return [
            "qemu-storage-daemon", "--object", "iothread,id=io", "--blockdev",
            f"driver=file,node-name=disk,filename={workload.volume},aio=io_uring,"
            f"cache.direct={'on' if workload.direct else 'off'}",
            "--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io,"
            "addr.type=unix,addr.path=SOCKET"]

    @contextlib.contextmanager
    def serving(self, workload, socket):
        words = ["taskset", "-c", str(workload.cpus[1])] + [
            word.replace("SOCKET", str(socket)) for word in self.command(workload)]
        process = subprocess.Popen(words)
        try:
            yield process.pid
        finally:
            # With a polling iothread it does not end on SIGTERM.
            process.send_signal(signal.SIGKILL)
            process.wait()

    def measure(self, workload):
        with tempfile.TemporaryDirectory(prefix="bench.") as directory:
            socket = pathlib.Path(directory) / "vhost"
            with self.serving(workload, socket) as pid:
                return json.loads(run([
                    self.built / "vhost_user_client", f"socket={socket}", f"process={pid}",
                    f"rw={workload.pattern}", f"bs={workload.block_bytes}", f"depth={workload.depth}",
                    f"cpu={workload.cpus[0]}", f"seconds={SECONDS:g}"]))


def build_peers(directory):
    """Compiles the C peers into `directory`."""
    flags = ["gcc", "-O2", "-Wall"]
    run([*flags, PEERS / "blkif_pair.c", PEERS / "blkif_backend.c", "-o", directory / "blkif_pair", "-luring"])
    run([*flags, PEERS / "vhost_user_client.c", "-o", directory / "vhost_user_client"])
