"""The numbers of rows that a prefill's matrices may have.

Libraries make a kernel or a plan for each new number of rows: oneDNN for bfloat16 on a CPU, cuDNN's attention on a GPU. An agent's
prompt has a new length at every replan, and a pruned prefill has one more at every stage. So prompts and survivors are padded on
the right to one of a few sizes, which a process has soon met. The padding is no token: causal attention hides it from the tokens
before it, no stage keeps it, and it leaves the cache before the layer is done.
"""

from dataclasses import dataclass

import torch

_SMALLEST_STEP = 16


@dataclass(frozen=True)
class RowSizes:
    """A set of sizes with the same number of steps in each octave: from 2,048 to 4,096 in steps of 64, for 32 steps.

    Attributes
    ----------
    per_octave
        Sizes between a power of two and the next, a power of two itself; 0 allows every size.
    """

    per_octave: int = 0

    def __post_init__(self) -> None:
        if self.per_octave < 0 or self.per_octave & (self.per_octave - 1):
            raise ValueError(f"per_octave={self.per_octave} must be a power of two, or 0 to allow every size")

    def at_least(self, rows: int) -> int:
        """Return the smallest size that holds ``rows`` rows. It is at most ``1 + 1 / per_octave`` times as large from 512 on."""
        if not self.per_octave or not rows:
            return rows
        step = max(_SMALLEST_STEP, (1 << (rows.bit_length() - 1)) // self.per_octave)
        return -(-rows // step) * step


EVERY_SIZE = RowSizes()
"""All sizes, for devices whose libraries need nothing new for a new one."""


def row_sizes(device: torch.device, dtype: torch.dtype) -> RowSizes:
    """Return the sizes that serve a device and a dtype best. float32 on a CPU needs none: its products take any size at once."""
    return EVERY_SIZE if device.type == "cpu" and dtype == torch.float32 else RowSizes(32)
