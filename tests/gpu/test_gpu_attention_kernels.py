"""The attention kernel that a prefill uses on a GPU."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from erecap import prefill
from erecap.models.attention_kernels import PLANS_PAY_FROM, PreferredKernels

pytestmark = pytest.mark.gpu


def kernels_of(call):
    """Names of what ran: torch's operations and the GPU's kernels."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        call()
        torch.cuda.synchronize()
    return {event.key for event in trace.key_averages()}


def test_a_new_length_needs_no_plan(cuda, nano, prompt):
    model = nano(torch.bfloat16)
    prefill(model, prompt(50))  # the first of a process lets torch set its own preference
    names = kernels_of(lambda: prefill(model, prompt(777)))
    assert "aten::_scaled_dot_product_flash_attention" in names
    assert not any("cudnn" in name for name in names)


def test_a_kernel_that_the_caller_forbids_is_not_used(cuda, nano, prompt):
    model = nano(torch.bfloat16)
    with sdpa_kernel([SDPBackend.MATH]):
        names = kernels_of(lambda: prefill(model, prompt(333)))
    assert "aten::_scaled_dot_product_flash_attention" not in names


def test_torchs_own_preference_comes_back(cuda, nano, prompt):
    prefill(nano(torch.bfloat16), prompt(50))
    before = torch._C._get_sdp_priority_order()
    with PreferredKernels(cuda) as kernels:
        kernels.prefer_for(100)
        short = torch._C._get_sdp_priority_order()
        kernels.prefer_for(PLANS_PAY_FROM)
        long = torch._C._get_sdp_priority_order()
    assert short[0] == int(SDPBackend.FLASH_ATTENTION)
    assert long[0] == int(SDPBackend.CUDNN_ATTENTION)
    assert torch._C._get_sdp_priority_order() == before
