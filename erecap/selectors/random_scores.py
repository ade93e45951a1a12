"""Random scores: the floor that any selector must beat at the same budget."""

import torch
from torch import Tensor

from erecap.selectors.base import SelectorContext

_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class RandomSelector:
    """A selector by uniform scores in [0, 1).

    A score is a hash of seed, stage and original position, so it is the same in every run, on every device and in every batch. The
    hash is
    splitmix64's finaliser (Steele et al. 2014) in wrapping int64 arithmetic; 24 bits of it fit a float32 exactly.
    """

    tokenwise = True

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.identity = f"random, seed {seed}"

    @classmethod
    def from_context(cls, context: SelectorContext) -> "RandomSelector":
        """Make the selector from the context's seed."""
        return cls(context.seed)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score by the hash of each position (``Selector.score``)."""
        stream = _signed(self._seed * _FACTORS[1] + (stage_index + 1) * _FACTORS[2])
        bits = _mixed(positions * _signed(_FACTORS[0]) + stream)
        return _shifted(bits, 40).to(torch.float32) * 2.0**-24


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _signed(_FACTORS[1])
    bits = (bits ^ _shifted(bits, 27)) * _signed(_FACTORS[2])
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's shift of a signed integer would fill with the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """Return the int64 that has the low 64 bits of ``value``."""
    return (value + 2**63) % 2**64 - 2**63
