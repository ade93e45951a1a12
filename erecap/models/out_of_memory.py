"""Memory errors of torch, told from its other errors."""

import torch


def out_of_memory(error: RuntimeError | MemoryError) -> str | None:
    """Return the status of a point where ``error`` means that memory ran out, else ``None``.

    On a CPU torch raises a bare ``RuntimeError``, from its allocator or from oneDNN.
    """
    text = (str(error).splitlines() or [""])[0][:200]
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {text}"
    cpu = "DefaultCPUAllocator" in str(error) or "std::bad_alloc" in str(error) or "could not create a memory object" in str(error)
    return f"out of memory: {text}" if cpu else None
