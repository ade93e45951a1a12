"""The measurement ``comm`` on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from erecap.profiling.comm_profile import CPU_SIZES, GPU_SIZES, Crew, choose_crew, profile_comm
from erecap.profiling.comm_work import CommPlan
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.units import format_bytes, parse_bytes


def add_comm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``comm``."""
    parser.add_argument("--processes", type=int, help="processes; by default one per GPU, or 2 on the CPU")
    sizes = ",".join(format_bytes(size).replace(" ", "") for size in GPU_SIZES)
    parser.add_argument("--sizes", help=f"sizes of messages, with commas; by default {sizes}, on the CPU without the last")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds per size (20)")


@dataclass(frozen=True)
class Communication:
    """A communication test: who takes part, and what is measured.

    Attributes
    ----------
    crew
        Who takes part.
    plan
        What is measured.
    device
        Kind of the devices.
    """

    crew: Crew
    plan: CommPlan
    device: torch.device

    @classmethod
    def of(cls, args: argparse.Namespace, device: torch.device) -> "Communication":
        """Read the options ``args``. Raise ``ValueError`` for what cannot be."""
        if args.rounds < 1:
            raise ValueError(f"--rounds {args.rounds} must be at least 1")
        crew = choose_crew(device, args.processes)
        default = CPU_SIZES if crew.backend == "gloo" else GPU_SIZES
        sizes = tuple(parse_bytes(part) for part in args.sizes.split(",")) if args.sizes else default
        return cls(crew, CommPlan(tuple(sorted(set(sizes))), args.rounds, args.seconds), device)

    def facts(self) -> Row:
        """Return the facts of the result file."""
        return {"backend": self.crew.backend, "processes": self.crew.processes}

    @property
    def cases(self) -> int:
        """Number of points."""
        n = self.crew.processes
        return len(self.plan.sizes) * (3 if n == 1 else n * (n - 1) + 1)

    def run(self, file: ResultFile, preload: Sequence[str] = ()) -> None:
        """Measure all cases. ``preload`` names modules that the main module imports, to start processes faster."""
        file.expect(self.cases)
        profile_comm(self.crew, self.plan, self.device, file, preload)
