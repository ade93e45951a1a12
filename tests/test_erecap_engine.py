"""Prefill and decode: what they leave behind, batches, sampling, refusals."""

import copy

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from erecap.architecture import UnsupportedModelError
from erecap.decoding import DecodeOptions, decode
from erecap.prefilling import prefill
from erecap.schedule import PruneSchedule, PruneStage, layer_tokens
from erecap.selectors import RandomSelector, RecencySelector
from erecap.tokenization import TokenizedPrompt

SCHEDULE = PruneSchedule.for_depth(8, 0.7)


def prompt_of(length: int, protect: float = 0.0) -> TokenizedPrompt:
    draw = np.random.default_rng(length)
    return TokenizedPrompt.from_ids(draw.integers(3, 320, length), draw.random(length) < protect)


def generate(model, prompts, options, schedule=SCHEDULE):
    steps = decode(model, prefill(model, prompts, schedule, RandomSelector(1)), options)
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
@pytest.mark.parametrize("length", [1, 30, 150])
def test_baseline_tokens_equal_stock_generate(make_model, heads, length):
    model, prompt = make_model(8, *heads), prompt_of(length)
    ids = torch.from_numpy(prompt.input_ids)[None]
    config = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=[2], pad_token_id=0)
    stock = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, length:].tolist()
    assert generate(model, prompt, DecodeOptions(40, eos_ids=frozenset([2])), PruneSchedule.none()) == [stock]


def test_cache_holds_what_reached_each_layer(make_model):
    prompt = prompt_of(200, protect=0.1)
    result = prefill(make_model(8), prompt, SCHEDULE, RecencySelector())
    assert result.layer_tokens == (layer_tokens(SCHEDULE, 8, prompt.protected),)
    assert [layer.keys.shape[-2] for layer in result.cache.layers] == list(result.layer_tokens[0])
    assert result.kv_bytes == sum(2 * tokens * 16 * 4 for tokens in result.layer_tokens[0])  # K and V, one head of 16, float32
    assert result.next_positions == (200,)
    assert result.layer_tokens[0][-1] < 200


def test_protected_tokens_survive_in_order(make_model):
    prompt = prompt_of(200, protect=0.2)
    result = prefill(make_model(8), prompt, SCHEDULE, RandomSelector())
    for stage in result.stages:
        kept = stage.positions[0].tolist()
        assert kept == sorted(set(kept))
        assert {*np.flatnonzero(prompt.protected), *range(4), *range(184, 200)} <= set(kept)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, PruneSchedule.none(), PruneSchedule((PruneStage(0, 0.2), PruneStage(5, 0.5)), head=0, tail_min=1)]
)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_batches_give_what_the_prompts_give_alone(make_model, schedule, heads):
    model = make_model(8, *heads)
    prompts = [prompt_of(n, protect=0.1) for n in (90, 1, 200, 17, 200)]
    options = DecodeOptions(12)
    together = prefill(model, prompts, schedule, RandomSelector(1))
    for row, prompt in enumerate(prompts):
        alone = prefill(model, prompt, schedule, RandomSelector(1))
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=0)
        for many, one in zip(together.stages, alone.stages, strict=True):
            assert many.positions[row, : many.counts[row]].tolist() == one.positions[0].tolist()
    assert generate(model, prompts, options, schedule) == [generate(model, p, options, schedule)[0] for p in prompts]


def test_batched_sampling_draws_what_rows_draw_alone(make_model):
    model, prompts, options = make_model(8), [prompt_of(40), prompt_of(60)], DecodeOptions(10, temperature=1.0, seed=3)
    assert generate(model, prompts, options) == [generate(model, prompt, options)[0] for prompt in prompts]
    assert generate(model, prompts, options) != generate(model, prompts, DecodeOptions(10, temperature=1.0, seed=4))


def test_rows_stop_at_their_own_end_token(make_model):
    model, prompts = make_model(8), [prompt_of(40), prompt_of(60)]
    free = generate(model, prompts, DecodeOptions(20))
    eos = free[0][4]
    stopped = generate(model, prompts, DecodeOptions(20, eos_ids=frozenset([eos])))
    assert stopped == [row[: row.index(eos) + 1] if eos in row else row for row in free]
    assert generate(model, prompts, DecodeOptions(20, eos_ids=frozenset([eos]), ignore_eos=True)) == free


def test_a_prefill_decodes_once(make_model):
    model = make_model(8)
    start = prefill(model, prompt_of(40))
    list(decode(model, start, DecodeOptions(3)))
    with pytest.raises(ValueError, match="prefill again"):
        list(decode(model, start, DecodeOptions(3)))


def test_a_stage_that_drops_nothing_is_not_scored(make_model):
    class Untouchable:
        def score(self, hidden, positions, stage_index, lengths):
            raise AssertionError("scored")

    assert prefill(make_model(8), prompt_of(20), SCHEDULE, Untouchable()).layer_tokens == ((20,) * 8,)


def test_bfloat16_runs_and_gives_float32_logits(make_model):
    model = copy.deepcopy(make_model(4)).to(torch.bfloat16)
    result = prefill(model, prompt_of(100), PruneSchedule.for_depth(4, 0.5), RandomSelector())
    assert (result.logits.dtype, result.cache.layers[0].keys.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.train(), "training mode"),
        (lambda m: setattr(m.config, "_attn_implementation", "flex_attention"), "attn_implementation='sdpa'"),
        (lambda m: setattr(m.config, "layer_types", ["sliding_attention"] * 4), "sliding-window"),
        (lambda m: setattr(m.config, "rope_parameters", {"rope_type": "dynamic"}), "rope type 'dynamic'"),
    ],
)
def test_models_it_would_run_wrongly_are_refused(make_model, change, message):
    model = copy.deepcopy(make_model(4))
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        prefill(model, prompt_of(10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: prefill(m, []), "0 prompts"),
        (lambda m: prefill(m, prompt_of(10), SCHEDULE), "needs a selector"),
        (
            lambda m: prefill(m, prompt_of(10), PruneSchedule.for_depth(28, 0.7), RandomSelector()),
            "does not fit a model of 8 layers",
        ),
        (lambda m: prefill(m, prompt_of(1025)), "exceed the model's 1024 positions"),
        (lambda m: list(decode(m, prefill(m, prompt_of(1000)), DecodeOptions(25))), "1000 tokens and 25 new ones"),
        (lambda m: DecodeOptions(0), "max_new_tokens=0"),
        (lambda m: DecodeOptions(1, temperature=-1.0), "temperature=-1.0"),
    ],
)
def test_bad_calls_say_what_is_wrong(make_model, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_model(8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prefill_never_waits_for_the_gpu(make_model):
    model = copy.deepcopy(make_model(8)).to("cuda")
    prompts = [prompt_of(200), prompt_of(90)]
    prefill(model, prompts, SCHEDULE, RandomSelector())  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = prefill(model, prompts, SCHEDULE, RandomSelector())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    alone = prefill(make_model(8), prompts[0], SCHEDULE, RandomSelector())
    torch.testing.assert_close(result.logits[0].cpu(), alone.logits[0], atol=1e-2, rtol=0)
