"""Out of memory on a GPU: an error that says what to do, and a process that goes on."""

from functools import partial

import pytest
import torch

from erecap import PruneSchedule, prefill
from erecap.models.device import OutOfMemoryError, check_free_memory, explain_out_of_memory
from erecap.profiling.memory_profile import MemoryPlan, measure_on_gpu, profile_memory
from erecap.profiling.results import ResultFile

pytestmark = pytest.mark.gpu

LIMIT_BYTES = 256 << 20


@pytest.fixture
def little_memory(cuda):
    """A process that may use 256 MiB more than it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(cuda) + LIMIT_BYTES) / total), cuda)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_is_explained_and_survived(cuda, nano, prompt):
    model = nano(torch.bfloat16)
    with (
        pytest.raises(OutOfMemoryError, match="ran out of memory in a prefill: shorten the history"),
        explain_out_of_memory(cuda, "a prefill"),
    ):
        prefill(model, prompt(200_000))
    assert prefill(model, prompt(200)).logits.isfinite().all()


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_is_a_row_of_the_memory_profile(nano, pruning):
    model, file = nano(torch.bfloat16), ResultFile(None)
    variants = {1.0: (PruneSchedule.none(), None), 0.7: pruning(model)}
    plan = MemoryPlan((1024, 200_000), {keep: schedule for keep, (schedule, _) in variants.items()}, 1e6)
    profile_memory(model.config, model.dtype, partial(measure_on_gpu, model, variants), plan, file)
    assert [(point["prompt_tokens"], point["keep"], point["status"][:13]) for point in file.points] == [
        (1024, 1.0, "ok"),
        (1024, 0.7, "ok"),
        (200_000, 1.0, "out of memory"),
        (200_000, 0.7, "out of memory"),
    ]


def test_more_than_is_free_is_refused_at_once(cuda):
    with pytest.raises(OutOfMemoryError, match="a huge model needs"):
        check_free_memory(cuda, 1 << 50, "a huge model")
