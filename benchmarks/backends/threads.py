"""How many CPU threads a model may use where several processes share the machine."""

import os


def cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int | None:
    """An equal share of the cores for each worker, at least one; ``None`` (torch's own choice) for a single process."""
    return None if workers <= 1 else max(1, cores() // workers)
