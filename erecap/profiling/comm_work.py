"""What each process of the communication test does: sends between all ordered pairs, and all-reduces, by message size.

Bandwidths are those of nccl-tests (NVIDIA/nccl-tests, doc/PERFORMANCE.md): ``algbw`` is size / time, and ``busbw`` of an all-reduce
is ``algbw * 2 (n - 1) / n``, which can be held against the bandwidth of a link whatever the number of processes ``n`` is. Sends are
measured as the OSU micro-benchmarks do: the time is half of a message there and back (osu_latency), and the bandwidth that of a row
of messages with one short answer at the end (osu_bw).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import permutations
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from erecap.distributed.processes import TIMEOUT, Send, World
from erecap.profiling.results import Row
from erecap.profiling.timing import seconds_of

ITEM_BYTES = 4
"""Bytes of a float32, of which all messages consist."""
WARM_UPS = 5
WINDOW = 8
"""Messages in a row of which the bandwidth is measured."""
_PERIOD = 7  # the test pattern repeats after so many values; it is small, so that sums are exact in float32
LEFT_OUT = "left out: --seconds is over"


@dataclass(frozen=True)
class CommPlan:
    """Settings of the communication test.

    Attributes
    ----------
    sizes
        Sizes of messages in bytes, multiples of ``ITEM_BYTES``.
    rounds
        Timed rounds per size.
    seconds
        Seconds that the whole test may take.
    """

    sizes: tuple[int, ...]
    rounds: int
    seconds: float

    def __post_init__(self) -> None:
        odd = [size for size in self.sizes if size % ITEM_BYTES or size < ITEM_BYTES]
        if odd:
            raise ValueError(
                f"message sizes {odd} are no multiples of {ITEM_BYTES} bytes (a float32): use such as 4, 1KiB or 16MiB"
            )


def bus_factor(processes: int) -> float:
    """Return the ratio busbw / algbw of an all-reduce between ``processes`` processes (nccl-tests)."""
    return 2 * (processes - 1) / processes


def quartiles_us(seconds: Sequence[float]) -> dict[str, float]:
    """Compute median and quartiles of ``seconds`` in microseconds: ``median_time_us``, ``p25_time_us``, ``p75_time_us``."""
    names = {"median_time_us": 50, "p25_time_us": 25, "p75_time_us": 75}
    return {name: float(np.percentile(seconds, share)) * 1e6 for name, share in names.items()}


def measure_world(world: World, send: Send, plan: CommPlan) -> None:
    """Measure all cases. All processes call it; the first hands one row per case to ``send``.

    Rows of sends hold ``test`` (``send``), ``source`` and ``target`` (numbers of processes), ``size_bytes``, ``rounds``, the time
    one way (``quartiles_us``), ``bandwidth_bytes_per_s`` and ``correct``; on GPUs also ``peer_access``. Rows of all-reduces hold
    ``test`` (``all_reduce``), ``processes``, ``size_bytes``, ``rounds``, the time, ``algbw_bytes_per_s``, ``busbw_bytes_per_s`` and
    ``correct``. ``status`` is ``ok`` or says why nothing was measured.
    """
    for row in _rows(_Team(world, plan)):
        if world.rank == 0:
            send(row)


def _rows(team: "_Team") -> Iterator[Row]:
    plan, world = team.plan, team.world
    for source, target in permutations(range(world.size), 2):
        facts: Row = {"test": "send", "source": source, "target": target}
        if world.device.type == "cuda":
            facts["peer_access"] = torch.cuda.can_device_access_peer(source, target)
        for size in plan.sizes:
            yield facts | {"size_bytes": size} | team.case(source, partial(_send, team, source, target, size))
    for size in plan.sizes:
        facts = {"test": "all_reduce", "processes": world.size, "size_bytes": size}
        yield facts | team.case(0, partial(_all_reduce, team, size))


class _Team:
    """What the processes agree on. Small messages between the hosts (gloo) keep them in step; they touch no GPU."""

    def __init__(self, world: World, plan: CommPlan) -> None:
        self.world, self.plan = world, plan
        self.control = dist.new_group(backend="gloo", timeout=TIMEOUT + timedelta(seconds=plan.seconds))
        self._end = monotonic() + plan.seconds

    def all_true(self, value: bool) -> bool:
        """Return whether ``value`` is true in all processes."""
        flag = torch.tensor([int(value)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self.control)
        return bool(flag.item())

    def largest(self, seconds: Sequence[float]) -> list[float]:
        """Return the largest value over processes, item by item: a collective ends when its last process has ended."""
        values = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return [float(value) for value in values]

    def buffer(self, size: int) -> Tensor | None:
        """Make a buffer of ``size`` bytes in every process, or ``None`` in all where one has no memory for it."""
        made: Tensor | None
        try:
            made = torch.zeros(size // ITEM_BYTES, device=self.world.device)
        except RuntimeError:  # torch.OutOfMemoryError is one, and the CPU's allocator raises it as it is
            made = None
        return made if self.all_true(made is not None) else None

    def case(self, speaker: int, measure: Callable[[], Row]) -> Row:
        """Run one case in all processes, and return the row that process ``speaker`` made."""
        if not self.all_true(self.world.rank != 0 or monotonic() < self._end):
            return {"status": LEFT_OUT}
        row: list[Any] = [measure()]
        dist.broadcast_object_list(row, src=speaker, group=self.control)
        return dict(row[0])


def _pattern(size: int, device: torch.device) -> Tensor:
    return (torch.arange(size // ITEM_BYTES, device=device) % _PERIOD + 1).float()


def _all_reduce(team: _Team, size: int) -> Row:
    world, buffer = team.world, team.buffer(size)
    if buffer is None:
        return {"status": "out of memory"}
    pattern = _pattern(size, world.device)
    buffer.copy_(pattern * (world.rank + 1))
    dist.all_reduce(buffer)
    correct = team.all_true(torch.equal(buffer, pattern * (world.size * (world.size + 1) // 2)))
    buffer.zero_()  # sums of zeros stay zeros, however many rounds follow
    own = timed(world.device, team.plan.rounds, lambda: dist.all_reduce(buffer))
    times = quartiles_us(team.largest(own))
    algbw = size / times["median_time_us"] * 1e6
    bandwidths = {"algbw_bytes_per_s": algbw, "busbw_bytes_per_s": algbw * bus_factor(world.size)}
    return {"status": "ok" if correct else "wrong result", "rounds": team.plan.rounds, **times, **bandwidths, "correct": correct}


def timed(device: torch.device, rounds: int, call: Callable[[], object]) -> list[float]:
    """Return the seconds of each of ``rounds`` calls, one right after the other, after a warm-up."""
    for _ in range(WARM_UPS):
        call()
    return [seconds_of(call, device) for _ in range(rounds)]


def _send(team: _Team, source: int, target: int, size: int) -> Row:
    payload, note = team.buffer(size), team.buffer(ITEM_BYTES)
    if payload is None or note is None:
        return {"status": "out of memory"}
    world, pattern, rounds = team.world, _pattern(size, team.world.device), team.plan.rounds
    payload.copy_(pattern if world.rank == source else payload)
    pair = _Pair(world, source, target)
    pair.exchange(payload, payload)
    correct = team.all_true(world.rank != target or torch.equal(payload, pattern))
    if not pair.takes_part:
        return {}
    there_and_back = timed(world.device, rounds, lambda: pair.exchange(payload, payload))
    burst = timed(world.device, rounds, lambda: pair.exchange(payload, note, WINDOW))
    return {
        "status": "ok" if correct else "wrong result",
        "rounds": rounds,
        **quartiles_us([seconds / 2 for seconds in there_and_back]),
        "bandwidth_bytes_per_s": WINDOW * size / float(np.median(burst)),
        "correct": correct,
    }


@dataclass(frozen=True)
class _Pair:
    """Two processes that exchange messages. All processes may call ``exchange``; the others do nothing."""

    world: World
    source: int
    target: int

    @property
    def takes_part(self) -> bool:
        return self.world.rank in (self.source, self.target)

    def exchange(self, payload: Tensor, answer: Tensor, times: int = 1) -> None:
        """Send ``payload`` so many times from source to target, then ``answer`` once from target to source."""
        if self.world.rank == self.source:
            for _ in range(times):
                dist.send(payload, self.target)
            dist.recv(answer, self.target)
        elif self.world.rank == self.target:
            for _ in range(times):
                dist.recv(payload, self.source)
            dist.send(answer, self.source)
