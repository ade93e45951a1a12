"""Checks of this machine: what E-RECAP needs, what is here, and how to get what is missing.

One file per kind of check. A check is a function that returns findings; ``CHECKS`` lists them.
"""

from collections.abc import Callable, Sequence

import torch

from erecap.profiling.doctor.finding import Check
from erecap.profiling.doctor.gpus import check_attention, check_communication, check_gpus
from erecap.profiling.doctor.hardware import check_cpu, check_disk, check_memory
from erecap.profiling.doctor.software import check_java, check_packages, check_python

CHECKS: tuple[Callable[[torch.device], Sequence[Check]], ...] = (
    check_python,
    check_packages,
    check_cpu,
    check_memory,
    check_disk,
    check_gpus,
    check_communication,
    check_attention,
    check_java,
)
"""The checks in the order of the report. Each gets the device that measurements will use."""

__all__ = ["CHECKS", "Check", "run_checks"]


def run_checks(device: torch.device) -> list[Check]:
    """Run all checks and return their findings."""
    return [finding for check in CHECKS for finding in check(device)]
