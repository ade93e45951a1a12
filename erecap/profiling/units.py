"""Quantities with their units, as text: ``12GB/s``, ``64KiB``, ``40us``, ``277TFLOP/s``."""

import re

_PREFIXES = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)\s*"


def parse_byte_rate(text: str) -> float:
    """Read a rate such as ``12GB/s`` or ``1.5GiB/s``, and return bytes/s. Raise ``ValueError`` for other text."""
    return _positive(text, rf"{_NUMBER}(?P<prefix>[KMGT]i|[kKMGTP]?)B/s", "a bandwidth with its unit, such as 12GB/s")


def parse_flop_rate(text: str) -> float:
    """Read a rate such as ``277TFLOP/s``, and return FLOP/s. Raise ``ValueError`` for other text."""
    return _positive(text, rf"{_NUMBER}(?P<prefix>[kKMGTP]?)FLOP/s", "a rate with its unit, such as 277TFLOP/s")


def parse_bytes(text: str) -> int:
    """Read a size such as ``64KiB``, ``1MB`` or ``8`` (bytes), and return bytes. Raise ``ValueError`` for other text."""
    size = _positive(text, rf"{_NUMBER}(?P<prefix>[KMGT]i|[kKMGT]?)B?", "a number of bytes, such as 8, 64KiB or 1MB")
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_seconds(text: str) -> float:
    """Read a time such as ``40us``, and return seconds. Raise ``ValueError`` for other text."""
    found = re.fullmatch(rf"{_NUMBER}(?P<unit>s|ms|us|ns)", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time with its unit, such as 40us")
    return float(found["number"]) * _SECONDS[found["unit"]]


def _positive(text: str, pattern: str, meaning: str) -> float:
    found = re.fullmatch(pattern, text.strip())
    value = 0.0 if found is None else float(found["number"]) * (_BINARY | _PREFIXES)[found["prefix"]]
    if value <= 0:
        raise ValueError(f"{text!r} is not {meaning}")
    return value


def format_bytes(size: float) -> str:
    """Write a size in bytes with a binary unit: ``64 KiB``."""
    for prefix, factor in reversed(_BINARY.items()):
        if size >= factor:
            return f"{size / factor:.4g} {prefix}B"
    return f"{size:.4g} B"
