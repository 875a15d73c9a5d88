"""The figures: which contenders are compared on which workload, and what is required.

Contenders of a group run one after another in each round, in alternating order; a figure is the median of its ratio
over the rounds. Values of different rounds, groups or machines are never compared.
"""

import dataclasses
import statistics

from .contenders import Fio, Ours, Prototype, StorageDaemon, Workload
from .netcontenders import BackendRelay, Frames, NetBackend, PlainCalls, PlainRelay, Stream

ONE_CORE, TWO_CORES = (0, 0), (0, 1)


@dataclasses.dataclass(frozen=True)
class Figure:
    """`ours` over `peer` in `quantity`, required to be at least (or, for costs, at most) `required`."""

    title: str
    peer: str
    required: float
    quantity: str = "iops"
    at_most: bool = False

    def holds(self, value):
        return value <= self.required if self.at_most else value >= self.required

    def requirement(self):
        return f"{'at most' if self.at_most else 'at least'} {self.required:g}"


@dataclasses.dataclass(frozen=True)
class Group:
    name: str
    workload: object
    contenders: list
    figures: list
    rate: str = "iops"  # what absolute values are shown of


def groups(release, peers, cached_file, disk_file):
    """All groups. `cached_file` is 64 MiB of page-cached ext4, `disk_file` lies on the machine's disk."""
    ours, fio, storage_daemon = Ours(release), Fio(), StorageDaemon(peers)
    copying = Prototype(peers, "path=copy")
    registered = Prototype(peers, "path=copy", "fixed=1")
    chunked = Prototype(peers, "path=copy", "fixed=1", "chunk=8", "poll-us=50")

    def cached(pattern, block_bytes, depth, cpus):
        return Workload(str(cached_file), pattern, block_bytes, depth, False, cpus)

    yield Group(
        "null", Workload("null", "randread", 4096, 32, False, ONE_CORE), [ours, copying],
        [Figure("null volume, 4 KiB, depth 32: backend CPU per request", copying.name, 1.10, "backend_cpu_ns", True)])
    yield Group(
        "cached-32", cached("randread", 4096, 32, ONE_CORE), [ours, fio, registered, storage_daemon],
        [Figure("cached file, 4 KiB random read, depth 32", fio.name, 0.90),
         Figure("cached file, 4 KiB random read, depth 32, one core", storage_daemon.name, 3.5)])
    yield Group(
        "cached-128", cached("randread", 4096, 128, ONE_CORE), [ours, fio, registered],
        [Figure("cached file, 4 KiB random read, depth 128", fio.name, 0.94)])
    yield Group(
        "cached-32-two-cores", cached("randread", 4096, 32, TWO_CORES), [ours, storage_daemon, chunked],
        [Figure("cached file, 4 KiB random read, depth 32, two cores", storage_daemon.name, 1.3)])
    for depth in (1, 32, 128):
        yield Group(
            f"disk-{depth}", Workload(str(disk_file), "randread", 4096, depth, True, ONE_CORE),
            [ours, fio, registered],
            [Figure(f"O_DIRECT on the machine's disk, 4 KiB random read, depth {depth}", fio.name, 0.9)])
    yield Group(
        "sequential", cached("read", 128 << 10, 8, ONE_CORE), [ours, fio, registered],
        [Figure("cached file, 128 KiB sequential read, depth 8", fio.name, 0.72)])


def network_groups(release, peers):
    """All groups of the network backend."""
    ours, write, read = NetBackend(release), PlainCalls(peers, "write"), PlainCalls(peers, "read")
    for peer, direction, way, required in (
            (write, "to-tap", "netfront to TAP device", 0.95), (read, "from-tap", "TAP device to netfront", 0.9)):
        for size in (64, 1514):
            yield Group(
                f"{direction}-{size}", Frames(direction, size), [ours, peer],
                [Figure(f"{way}, frames of {size:,} bytes", peer.name, required, "frames_per_cpu_second")],
                "frames_per_cpu_second")
    yield Group(
        "to-tap-gso", Frames("to-tap", 65226, True), [ours, write],
        [Figure("netfront to TAP device, segmented frames of 64 KiB", write.name, 0.45, "frames_per_cpu_second")],
        "frames_per_cpu_second")
    relay = PlainRelay(peers)
    yield Group(
        "tcp-stream", Stream(), [BackendRelay(release), relay],
        [Figure("iperf3, one TCP stream between two namespaces", relay.name, 0.85, "bits_per_second")],
        "bits_per_second")


def measure(group, rounds, progress):
    """{contender: [measurement per round]}"""
    measured = {contender.name: [] for contender in group.contenders}
    for number in range(rounds):
        order = group.contenders if number % 2 == 0 else group.contenders[::-1]
        for contender in order:
            progress(f"{group.name}: round {number + 1} of {rounds}: {contender.name}")
            measured[contender.name].append(contender.measure(group.workload))
    return measured


def ratios(measured, one, other, quantity):
    """The ratio in each round; of costs and rates alike it is ours over theirs."""
    return [a[quantity] / b[quantity] for a, b in zip(measured[one], measured[other])]


def evaluate(group, measured):
    """The group's figures as plain data."""
    prototype = next((c.name for c in group.contenders if isinstance(c, Prototype)), None)
    for figure in group.figures:
        values = ratios(measured, "ours", figure.peer, figure.quantity)
        median = statistics.median(values)
        ceiling = 1.0 if figure.peer == prototype else None
        if prototype and figure.peer != prototype:
            ceiling = statistics.median(ratios(measured, prototype, figure.peer, figure.quantity))
        yield {
            "figure": figure.title, "against": figure.peer, "quantity": figure.quantity,
            "required": figure.requirement(), "median": median, "rounds": values, "prototype": ceiling,
            "holds": figure.holds(median),
            "ours": statistics.median(one[figure.quantity] for one in measured["ours"]),
            "theirs": statistics.median(one[figure.quantity] for one in measured[figure.peer])}
