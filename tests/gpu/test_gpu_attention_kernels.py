"""The attention kernel that a GPU uses for lengths it has not run before."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from erecap import prefill
from erecap.models.attention_kernels import PLANS_PAY_FROM, prefer_kernels

pytestmark = pytest.mark.gpu


def kernels_of(call):
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        call()
    return {event.key for event in trace.key_averages()}


def test_a_new_length_needs_no_plan(cuda, nano, prompt):
    model = nano(torch.bfloat16)
    assert not any("cudnn" in name and "attention" in name for name in kernels_of(lambda: prefill(model, prompt(777))))


def test_a_kernel_that_the_caller_forbids_is_not_used(cuda, nano, prompt):
    model = nano(torch.bfloat16)
    with sdpa_kernel([SDPBackend.MATH]):
        names = kernels_of(lambda: prefill(model, prompt(333)))
    assert not any("flash" in name for name in names)


def test_long_prompts_are_left_to_torch(cuda):
    allowed = torch._C._get_sdp_priority_order()
    with prefer_kernels(torch.empty(1, PLANS_PAY_FROM, 1, device=cuda)):
        assert torch._C._get_sdp_priority_order() == allowed
