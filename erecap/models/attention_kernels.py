"""Which of torch's attention kernels a GPU uses.

On Hopper torch prefers cuDNN's attention. It is the fastest on long prompts, and it makes a plan for every new length, which takes
about 40 ms on an H200. An agent's prompt has a new length at every replan, and a pruned prefill has one per stage, so a pruned
prefill of 4,096 tokens took 368 ms on lengths that the process had not run, and 48 ms on others. Flash attention needs no plans.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

PLANS_PAY_FROM = 16_384
"""Tokens from which cuDNN's faster kernel makes up for its plan within one prefill."""

_WITHOUT_PLANS = {
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
}
"""The kernels in the order of preference for new lengths, and whether the caller allows them."""


def prefer_kernels(hidden: Tensor) -> AbstractContextManager[None]:
    """Prefer attention kernels that need no plan for a new length, among those that the caller allows.

    Parameters
    ----------
    hidden
        Residual stream that enters a layer, ``(batch, n, hidden_size)``. On a CPU, and from ``PLANS_PAY_FROM`` tokens on, torch
        chooses.
    """
    if not hidden.is_cuda or hidden.shape[1] >= PLANS_PAY_FROM:
        return nullcontext()
    allowed = [kernel for kernel, is_allowed in _WITHOUT_PLANS.items() if is_allowed()]  # type: ignore[no-untyped-call]
    return sdpa_kernel(allowed, set_priority=True)
