"""The choice of torch's attention kernel for a prefill on a GPU.

On Hopper torch prefers cuDNN's attention. It is the fastest on long prompts, but it makes a plan for every new length, which takes
about 40 ms on an H200. An agent's prompt has a new length at every replan, and a pruned prefill has one more per stage. So a
pruned prefill of 4,096 tokens took 368 ms on lengths that the process had not run before, and 48 ms on the others. Flash attention
needs no plan: 95 ms and 50 ms.
"""

from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import Self

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PLANS_PAY_FROM = 16_384
"""Prompt length in tokens from which cuDNN's kernel saves more time in one prefill than its plan costs."""

_ENABLED = {
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
}
"""Kernels in the order of preference for new lengths, each with a function that tells whether the caller allows it."""


class PreferredKernels:
    """A context that chooses the attention kernel of each layer by the number of tokens that enter it.

    Kernels that the caller has disabled stay disabled. Torch's own preference is restored on exit. On a CPU nothing changes.

    Parameters
    ----------
    device
        Device of the prefill.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._entered = device, ExitStack()
        self._long: bool | None = None

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            _let_torch_choose_once(self._device)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered.close()

    def prefer_for(self, tokens: int) -> None:
        """Set the order of preference for a layer that ``tokens`` tokens enter."""
        long = tokens >= PLANS_PAY_FROM
        if self._device.type != "cuda" or long == self._long:
            return
        self._entered.close()
        allowed = [kernel for kernel, is_enabled in _ENABLED.items() if is_enabled()]  # type: ignore[no-untyped-call]
        self._entered.enter_context(sdpa_kernel(sorted(allowed, key=lambda kernel: _rank(kernel, long)), set_priority=True))
        self._long = long


def _rank(kernel: SDPBackend, long: bool) -> int:
    """Return a kernel's place in the order of preference. For long prompts cuDNN's kernel comes first."""
    return -1 if long and kernel == SDPBackend.CUDNN_ATTENTION else list(_ENABLED).index(kernel)


@lru_cache
def _let_torch_choose_once(device: torch.device) -> None:
    """Run attention once, because the first call sets torch's own preference and would replace one that is set before it."""
    small = torch.zeros(1, 1, 8, 64, dtype=torch.float16, device=device)
    torch.nn.functional.scaled_dot_product_attention(small, small, small, is_causal=True)
