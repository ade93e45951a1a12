"""How many CPU threads a model may use where several processes share the machine."""

import os


def threads_per_worker(workers: int) -> int | None:
    """An equal share of the cores for each worker, at least one; ``None`` (torch's own choice) for a single process."""
    return None if workers <= 1 else max(1, (os.cpu_count() or 1) // workers)
