"""CPU threads per process, where several processes share the machine."""

import os


def _cores() -> int:
    """Count the CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int | None:
    """Return the CPU threads of each worker, its share of the cores, at least 1; ``None`` for one process, where torch chooses."""
    return None if workers <= 1 else max(1, _cores() // workers)
