"""Fixtures of the tests that need a GPU. They also run on a bare machine, without the rest of the tests and of the project:

python -m pytest -c /dev/null --rootdir=. --confcutdir=tests/gpu -p no:cacheprovider --import-mode=importlib tests/gpu
"""

import os
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from erecap import PruneSchedule, Selector, SelectorContext, TokenizedPrompt, make_selector
from erecap.profiling.shapes import make_random_model, make_random_pruner, shape_config


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device; run by `make test-gpu`")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; ``ERECAP_TEST_DEVICE=cpu`` tries the tests themselves where there is none."""
    name = os.environ.get("ERECAP_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


@pytest.fixture(scope="session")
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what a CPU has no counterpart of."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@cache
def _model(device: torch.device, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    return make_random_model(shape_config("nano"), device, dtype, attention)


@pytest.fixture(scope="session")
def nano(device: torch.device) -> Callable[..., PreTrainedModel]:
    """``nano(dtype, attention)``: the bundled planner's shape with random weights."""
    return lambda dtype=torch.float32, attention="sdpa": _model(device, dtype, attention)


@pytest.fixture(scope="session")
def pruning() -> Callable[..., tuple[PruneSchedule, Selector]]:
    """``pruning(model, selector, keep)``: schedule and selector."""

    def make(model: PreTrainedModel, name: str = "learned", keep: float = 0.7) -> tuple[PruneSchedule, Selector]:
        schedule = PruneSchedule.for_depth(model.config.num_hidden_layers, keep)
        torch.manual_seed(1)
        return schedule, make_selector(name, SelectorContext(schedule, make_random_pruner(model, schedule), seed=3, model=model))

    return make


@pytest.fixture(scope="session")
def prompt() -> Callable[[int], TokenizedPrompt]:
    """``prompt(length)``: random tokens."""
    return lambda length: TokenizedPrompt.from_ids(np.random.default_rng(length).integers(3, 1000, length))


@pytest.fixture(autouse=True)
def wait_strictly() -> Iterator[None]:
    """Leave the debug mode as it was found, and no work in the queue."""
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
