"""The static decode step without a graph, random models, and the cost of stages."""

import pytest
import torch

from erecap import PruneSchedule, SelectorContext, decode, make_selector, prefill
from erecap.engine.decode import DecodeOptions
from erecap.profiling.graph_decode import GraphDecoder
from erecap.profiling.shapes import (
    SHAPES,
    make_random_model,
    make_random_prompt,
    make_random_pruner,
    read_bytes_per_token,
    shape_bytes,
    shape_config,
    weight_bytes,
)
from erecap.profiling.stage_cost import measure_stage_cost

NEW_TOKENS = 20


@pytest.fixture(scope="module")
def nano():
    return make_random_model(shape_config("nano"), torch.device("cpu"), torch.float32)


def pruning(model, keep: float = 0.7):
    schedule = PruneSchedule.for_depth(model.config.num_hidden_layers, keep)
    torch.manual_seed(1)
    return schedule, make_selector("learned", SelectorContext(schedule, make_random_pruner(model, schedule), model=model))


@pytest.mark.parametrize("length", [1, 17, 300])
@pytest.mark.parametrize("pruned", [False, True], ids=["baseline", "pruned"])
def test_the_static_step_decodes_what_the_engine_decodes(nano, length, pruned):
    start = prefill(nano, make_random_prompt(nano, length), *(pruning(nano) if pruned else ()))
    decoder = GraphDecoder(nano, start, NEW_TOKENS)
    found, again = list(decoder.decode()), list(decoder.decode())
    assert found == again == [step[0] for step in decode(nano, start, DecodeOptions(NEW_TOKENS, ignore_eos=True))]


def test_what_the_static_step_cannot_decode_is_refused(nano):
    two = [make_random_prompt(nano, 20), make_random_prompt(nano, 30)]
    with pytest.raises(ValueError, match="a batch of 2 prompts"):
        GraphDecoder(nano, prefill(nano, two), 4)
    with pytest.raises(ValueError, match="'swift' is not known: use split or flash"):
        GraphDecoder(nano, prefill(nano, two[0]), 4, "swift")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_random_model_is_lively(dtype):
    model = make_random_model(shape_config("nano"), torch.device("cpu"), dtype)
    schedule, selector = pruning(model)
    logits = prefill(model, make_random_prompt(model, 200), schedule, selector).logits
    assert logits.isfinite().all()
    assert 0.3 < float(logits.std()) < 3
    assert weight_bytes(model) == pytest.approx(shape_bytes("nano", dtype), rel=0.01)
    assert read_bytes_per_token(model) == weight_bytes(model)  # the table is the output matrix too


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2-0.5b", 0.494), ("qwen2-1.5b", 1.544), ("qwen2-7b", 7.616), ("qwen2-72b", 72.706), ("llama3-8b", 8.030)],
)
def test_shapes_have_the_published_sizes(name, billions):
    assert shape_bytes(name, torch.bfloat16) / 2e9 == pytest.approx(billions, rel=2e-3)


def test_shapes_are_known_by_name():
    assert len(SHAPES) == 6
    with pytest.raises(ValueError, match=r"shape 'gpt' is not known: the shapes are qwen2-0\.5b"):
        shape_config("gpt")


def test_the_cost_of_stages_is_a_share(nano):
    cost = measure_stage_cost(nano, make_random_prompt(nano, 300), *pruning(nano))
    assert 0 < cost.scoring < 1
    assert 0 < cost.selecting < 1 - cost.scoring
