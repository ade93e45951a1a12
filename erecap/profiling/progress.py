"""What a measurement tells about its progress, and the plain form of it: one line per point on stderr."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

_SHOWN = (
    "test",
    "source",
    "target",
    "size_bytes",
    "median_time_us",
    "prompt_tokens",
    "tokens",
    "keep",
    "decoder",
    "batch_size",
    "kernel",
    "status",
    "median_ttft_ms",
    "median_tpot_ms",
    "replans_per_s",
    "prefill_bytes",
)


class Progress(Protocol):
    """Where a measurement reports its progress."""

    def expect(self, points: int) -> None:
        """Say how many points there will be."""
        ...

    def begin(self, work: str) -> None:
        """Say what is measured now."""
        ...

    def add(self, point: Mapping[str, Any]) -> None:
        """Say that ``point`` is measured and in the result file."""
        ...

    def close(self) -> None:
        """End the display. May be called more than once."""
        ...


class LineProgress:
    """Progress as one line per point.

    Parameters
    ----------
    stream
        Where to write; stderr by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._expected, self._done = stream, 0, 0

    def expect(self, points: int) -> None:
        """See ``Progress``."""
        self._expected = points

    def begin(self, work: str) -> None:
        """See ``Progress``. Not shown: each point has its line soon enough."""

    def add(self, point: Mapping[str, Any]) -> None:
        """See ``Progress``."""
        self._done += 1
        stream = self._stream or sys.stderr
        stream.write(f"[{self._done}/{max(self._expected, self._done)}] {describe(point)}\n")
        stream.flush()

    def close(self) -> None:
        """See ``Progress``."""


def describe(point: Mapping[str, Any]) -> str:
    """Name a point and its main figure in one line."""
    named = {name: point[name] for name in _SHOWN if name in point} or dict(list(point.items())[:4])
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in named.items())
