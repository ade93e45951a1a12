"""Memory of this machine and of this process, as Linux tells it."""

import ctypes
import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATM, _STATUS, _CLEAR_REFS = (Path("/proc/self") / name for name in ("statm", "status", "clear_refs"))
_M_MMAP_THRESHOLD = -3  # of malloc.h
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the bytes that processes can still take, of the machine and of the container; ``None`` where unknown."""
    known = [value for value in (_machine_available(), _container_available()) if value is not None]
    return min(known, default=None)


def _machine_available() -> int | None:
    if not _MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _container_available() -> int | None:
    """Return what the limit of the process's control group (version 2) leaves; ``None`` where there is no limit."""
    limit, current, details = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not limit.is_file() or not current.is_file() or limit.read_text(encoding="ascii").strip() == "max":
        return None
    cached = dict(line.split() for line in details.read_text(encoding="ascii").splitlines()).get("inactive_file", "0")
    return int(limit.read_text(encoding="ascii")) - int(current.read_text(encoding="ascii")) + int(cached)


def is_measurable() -> bool:
    """Return whether the resident set of this process can be read and its peak be set back."""
    return _STATM.is_file() and os.access(_CLEAR_REFS, os.W_OK)


def resident_bytes() -> int:
    """Return the resident set of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def mapped_bytes() -> int:
    """Return the address space that this process has mapped."""
    return int(_STATM.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Return the largest resident set of this process since its start or ``reset_peak_resident``."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def return_freed_blocks() -> None:
    """Let glibc give every freed block of 64 KiB or more back to the system at once, so that the resident set is what is in use.

    By itself it keeps blocks of up to 32 MiB for later, and the resident set of a prefill is up to twice what it needs at a time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 64 << 10)


def reset_peak_resident() -> None:
    """Give freed memory back to the system, and start a new measurement of ``peak_resident_bytes``."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _CLEAR_REFS.write_text("5", encoding="ascii")


def limit_growth(more_bytes: int) -> None:
    """Let this process map ``more_bytes`` of address space more than it has; then its allocations fail. Cannot be undone.

    Raises
    ------
    MemoryError
        Where it holds more already.
    """
    import resource  # not on Windows

    if more_bytes <= 0:
        raise MemoryError(f"the model alone exceeds the limit by {-more_bytes} bytes")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + more_bytes, hard))
