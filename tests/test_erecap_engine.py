"""Prefill and decode: what they leave behind, batches, sampling, refusals."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from erecap.calibration.thresholds import fit_thresholds
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.engine.rules import RULES
from erecap.models.architecture import UnsupportedModelError
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.row_sizes import EVERY_SIZE, RowSizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage, layer_tokens
from erecap.selectors import LearnedSelector, RandomSelector

SCHEDULE = PruneSchedule.for_depth(8, 0.7)


def prompt_of(length: int, protect: float = 0.0, seed: int | None = None) -> TokenizedPrompt:
    """Of messages of 25 tokens and a header of the rest."""
    draw = np.random.default_rng(length if seed is None else seed)
    ids, protected = draw.integers(3, 320, length), draw.random(length) < protect
    return TokenizedPrompt(ids, protected, tuple(range(25, length + 1, 25)))


def by_rule(rule: str, schedule: PruneSchedule = SCHEDULE) -> PruneSchedule:
    """With the thresholds that uniform scores in [0, 1) call for."""
    return schedule.by_rule(rule, [1 - stage.keep for stage in schedule.stages] if rule == "threshold" else ())


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


@pytest.mark.parametrize("rule", ["top_k", "chunk_top_k"])
def test_counts_are_known_before_a_prefill(make_model, rule):
    prompts, schedule = [prompt_of(200, protect=0.1), prompt_of(70, protect=0.3)], by_rule(rule)
    result = prefill(make_model(8), prompts, schedule, RandomSelector())
    assert result.layer_tokens == tuple(layer_tokens(schedule, 8, p.protected, p.segment_ends) for p in prompts)


@pytest.mark.parametrize("rule", RULES)
def test_cache_holds_what_reached_each_layer(make_model, rule):
    prompt = prompt_of(200, protect=0.1)
    result = prefill(make_model(8), prompt, by_rule(rule), RandomSelector())
    assert [stage.counts[0] for stage in result.stages] == list(result.layer_tokens[0][2:]), "a stage after each of layers 1 to 6"
    assert [len(set(stage.positions[0].tolist())) for stage in result.stages] == [stage.counts[0] for stage in result.stages]
    assert [layer.keys.shape[-2] for layer in result.cache.layers] == list(result.layer_tokens[0])
    assert result.kv_bytes == sum(2 * tokens * 16 * 4 for tokens in result.layer_tokens[0])  # K and V, one head of 16, float32
    assert result.next_positions == (200,)
    assert result.layer_tokens[0][-1] < 200


@pytest.mark.parametrize("rule", RULES)
def test_protected_tokens_survive_in_order(make_model, rule):
    prompt = prompt_of(200, protect=0.2)
    result = prefill(make_model(8), prompt, by_rule(rule), RandomSelector())
    for stage in result.stages:
        kept = stage.positions[0].tolist()
        assert kept == sorted(set(kept))
        assert {*np.flatnonzero(prompt.protected), *range(4), *range(184, 200)} <= set(kept)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, PruneSchedule.none(), PruneSchedule((PruneStage(0, 0.2), PruneStage(5, 0.5)), head=0, tail_min=1)]
)
@pytest.mark.parametrize("sizes", [EVERY_SIZE, RowSizes(2)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_batches_give_what_the_prompts_give_alone(make_model, schedule, heads, rule, sizes):
    model, schedule = make_model(8, *heads), by_rule(rule, schedule)
    prompts = [prompt_of(n, protect=0.1) for n in (90, 1, 200, 17, 200)]
    options = DecodeOptions(12)
    together = prefill(model, prompts, schedule, RandomSelector(1), sizes)
    for row, prompt in enumerate(prompts):
        alone = prefill(model, prompt, schedule, RandomSelector(1))
        assert together.layer_tokens[row] == alone.layer_tokens[0]
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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_have_ended_leave_the_batch(make_model, temperature):
    """The first row, the last one and two at once, so that rows change their places."""
    model, prompts = make_model(8, 4, 2), [prompt_of(n) for n in (40, 200, 7, 90, 150)]
    bans = tuple(lambda answer, row=row: [] if row else [len(answer)] for row in range(5))
    options = DecodeOptions(16, temperature, ban=bans)
    free = generate(model, prompts, options)
    options = replace(options, eos_ids=frozenset([free[0][2], free[2][5], free[4][9]]))
    expected = [row[: next((i for i, t in enumerate(row) if t in options.eos_ids), 15) + 1] for row in free]
    start, rows = prefill(model, prompts, SCHEDULE, RandomSelector(1)), []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: rows.append(len(ids[0])))
    steps = list(decode(model, start, options))
    hook.remove()
    assert [[token for token in row if token is not None] for row in zip(*steps, strict=True)] == expected
    assert rows == [sum(len(answer) > step for answer in expected) for step in range(1, len(steps))]
    assert len(set(rows)) > 1
    assert {layer.keys.shape[0] for layer in start.cache.layers} == {rows[-1]}


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

    for rule in RULES:
        assert prefill(make_model(8), prompt_of(20), by_rule(rule), Untouchable()).layer_tokens == ((20,) * 8,)


def test_a_threshold_leaves_what_scores_above_it(make_model):
    prompt, schedule = (
        prompt_of(200),
        PruneSchedule((PruneStage(2, 0.5, 0.3), PruneStage(5, 0.5, 2.0)), tail_min=3, rule="threshold"),
    )
    result = prefill(make_model(8), prompt, replace(schedule, tail_share=0.0), RandomSelector(4))
    scores = RandomSelector(4).score(torch.zeros(1, 200, 1), torch.arange(200)[None], 0, torch.tensor([200]))[0]
    first, second = (stage.positions[0].tolist() for stage in result.stages)
    assert first == [p for p in range(200) if p < 4 or p >= 197 or scores[p] > 0.3]
    assert second == [*range(4), *range(197, 200)], "no score is above 2: what is forced survives"


def extended(prompt: TokenizedPrompt, by: TokenizedPrompt) -> TokenizedPrompt:
    """``prompt`` with nothing of its last message protected any more, and ``by``, which is protected, behind it."""
    ids = np.concatenate([prompt.input_ids, by.input_ids])
    protected = np.arange(len(ids)) >= len(prompt)
    return TokenizedPrompt(ids, protected, (*prompt.segment_ends, *(end + len(prompt) for end in by.segment_ends)))


@pytest.mark.parametrize("rule", ["chunk_top_k", "threshold"])
def test_verdicts_stand_when_the_prompt_is_extended(make_model, rule):
    """A causal selector scores a token as before, and no other token has a say."""
    model, window = make_model(8), prompt_of(50, seed=1)
    before = extended(prompt_of(150), window)
    after = extended(before, prompt_of(75, seed=2))
    torch.manual_seed(0)
    pruner = TokenPruner(identify(model), [stage.after_layer for stage in SCHEDULE.stages]).requires_grad_(False)
    selector = LearnedSelector(pruner, SCHEDULE)
    schedule = fit_thresholds(model, [before], SCHEDULE, selector) if rule == "threshold" else by_rule(rule)
    first, later = (prefill(model, prompt, schedule, selector) for prompt in (before, after))
    for earlier, now in zip(first.stages, later.stages, strict=True):
        old = [[p for p in stage.positions[0].tolist() if p < 150] for stage in (earlier, now)]
        assert old[0] == old[1]
        assert len(old[0]) < 150
    assert len(first.stages[0].positions[0]) > len(first.stages[1].positions[0]) > 60


@pytest.mark.parametrize("rule", RULES)
def test_only_a_threshold_asks_the_device(make_model, rule):
    """On the meta device nothing has a value: whoever waits for one fails."""
    model, prompts = copy.deepcopy(make_model(8)).to("meta"), [prompt_of(200, protect=0.1), prompt_of(90)]
    if rule == "threshold":
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            prefill(model, prompts, by_rule(rule), RandomSelector())
    else:
        assert prefill(model, prompts, by_rule(rule), RandomSelector()).logits.is_meta


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
@pytest.mark.parametrize("rule", ["top_k", "chunk_top_k"])
def test_prefill_never_waits_for_the_gpu(make_model, rule):
    model, schedule = copy.deepcopy(make_model(8)).to("cuda"), by_rule(rule)
    prompts = [prompt_of(200), prompt_of(90)]
    prefill(model, prompts, schedule, RandomSelector())  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = prefill(model, prompts, schedule, RandomSelector())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    alone = prefill(make_model(8), prompts[0], schedule, RandomSelector())
    torch.testing.assert_close(result.logits[0].cpu(), alone.logits[0], atol=1e-2, rtol=0)


def test_a_prefill_is_decoded_once(make_model):
    model = make_model(4)
    start = prefill(model, prompt_of(40))
    begun = decode(model, start, DecodeOptions(4))
    with pytest.raises(ValueError, match="has begun before"):
        decode(model, start, DecodeOptions(4))
    assert len(list(begun)) == 4


@pytest.mark.parametrize("change", [lambda cache: cache.crop(-1), lambda cache: cache.reorder_cache(torch.tensor([1, 0]))])
def test_a_cache_that_was_changed_is_not_decoded(make_model, change):
    model = make_model(4)
    start = prefill(model, [prompt_of(40), prompt_of(17)])
    change(start.cache)
    with pytest.raises(ValueError, match="cache was changed"):
        decode(model, start, DecodeOptions(4))
