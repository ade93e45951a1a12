"""The engine's anchor: it agrees with the slow masked reference, in logits and in greedy tokens."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from erecap.calibration.thresholds import fit_thresholds
from erecap.dropin.reference import reference
from erecap.engine.decode_steps import DecodeSteps
from erecap.engine.prefill import PrefillResult, prefill
from erecap.engine.rules import RULES
from erecap.models.architecture import decoder_parts
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.row_sizes import EVERY_SIZE, RowSizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, Selector, SelectorContext, make_selector

LENGTHS = (1, 2, 5, 17, 64, 200)
TOKENS = 32


def prompt_of(length: int, protect: float = 0.0) -> TokenizedPrompt:
    """Of five messages, some of which may be empty, and a header."""
    draw = np.random.default_rng(length)
    ids, protected = draw.integers(3, 320, length), draw.random(length) < protect
    return TokenizedPrompt(ids, protected, tuple(sorted(draw.integers(0, length + 1, 5).tolist())))


def by_rule(rule: str, schedule: PruneSchedule, model, selector: Selector) -> PruneSchedule:
    """With thresholds fitted to a prompt, for scores differ by orders of magnitude between selectors."""
    if rule != "threshold":
        return schedule.by_rule(rule)
    return fit_thresholds(model, [prompt_of(150)], schedule, selector)


def selector_for(name: str, model, schedule: PruneSchedule) -> Selector:
    torch.manual_seed(7)
    pruner = TokenPruner(identify(model), [stage.after_layer for stage in schedule.stages]).requires_grad_(False)
    return make_selector(name, SelectorContext(schedule, pruner, seed=3, model=model))


@torch.inference_mode()
def run_engine(
    model, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector, sizes: RowSizes
) -> tuple[PrefillResult, torch.Tensor]:
    """Prefill and greedy decode; the logits of every step, float32 ``(TOKENS, vocab)``."""
    start = prefill(model, prompt, schedule, selector, sizes)
    steps, logits = DecodeSteps(decoder_parts(model), start, TOKENS), [start.logits]
    for step in range(TOKENS - 1):
        logits.append(steps.run(logits[-1].argmax(-1), step))
    return start, torch.cat(logits)


def assert_agrees(
    model, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector, sizes: RowSizes = EVERY_SIZE
) -> None:
    start, logits = run_engine(model, prompt, schedule, selector, sizes)
    tokens = logits.argmax(-1).tolist()
    expected = reference(model, prompt, tokens[:-1], schedule, selector)
    assert [stage.positions[0].tolist() for stage in start.stages] == [list(kept) for kept in expected.kept]
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    # By induction: with the same tokens before it, the reference chooses each next token as the engine does.
    assert expected.logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("layers", [2, 4, 8, 12])
def test_agrees_with_reference(make_model, layers, heads, selector, rule):
    model = make_model(layers, *heads)
    scorer = selector_for(selector, model, PruneSchedule.for_depth(layers, 0.7))
    schedule = by_rule(rule, PruneSchedule.for_depth(layers, 0.7), model, scorer)
    for length in LENGTHS if rule == "top_k" else LENGTHS[-1:]:
        assert_agrees(model, prompt_of(length), schedule, scorer)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize(
    "schedule",
    [
        PruneSchedule.none(),
        PruneSchedule.for_depth(4, 0.9),
        PruneSchedule((PruneStage(0, 0.5),)),
        PruneSchedule((PruneStage(0, 0.3), PruneStage(1, 1.0), PruneStage(2, 0.3)), head=0, tail_min=1, tail_share=0.0),
        PruneSchedule((PruneStage(1, 0.05),), head=1, tail_min=1, tail_share=0.0),
    ],
    ids=["none", "keep09", "early", "unguarded", "harsh"],
)
def test_agrees_for_other_schedules(make_model, schedule, selector, rule):
    model = make_model(4, 4, 2)
    scorer = selector_for(selector, model, schedule)
    schedule = by_rule(rule, schedule, model, scorer)
    for length in (1, 2, 17, 120):
        assert_agrees(model, prompt_of(length, protect=0.2), schedule, scorer)


@pytest.mark.parametrize("rule", RULES)
def test_a_growing_share_may_be_guarded_by_any_rule(make_model, rule):
    model, schedule = make_model(8), PruneSchedule.for_depth(8, 0.5)
    scorer = selector_for("learned", model, schedule)
    shared = replace(by_rule(rule, schedule, model, scorer), tail_min=2, tail_share=0.3)
    for length in (17, 120):
        assert_agrees(model, prompt_of(length, protect=0.1), shared, scorer)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("schedule", [PruneSchedule.none(), PruneSchedule.for_depth(4, 0.6)], ids=["none", "keep06"])
def test_agrees_where_rows_are_padded_to_a_few_sizes(make_model, schedule, selector, rule):
    model = make_model(4, 4, 2)
    scorer = selector_for(selector, model, schedule)
    schedule = by_rule(rule, schedule, model, scorer)
    for length in (1, 64, 130):
        assert_agrees(model, prompt_of(length, protect=0.2), schedule, scorer, RowSizes(2))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [EVERY_SIZE, RowSizes(2)])
def test_agrees_under_eager_attention(make_model, rule, sizes):
    model = deepcopy(make_model(4, 4, 2))
    model.set_attn_implementation("eager")
    scorer = selector_for("learned", model, PruneSchedule.for_depth(4, 0.6))
    schedule = by_rule(rule, PruneSchedule.for_depth(4, 0.6), model, scorer)
    for length in (1, 64, 130):
        assert_agrees(model, prompt_of(length, protect=0.2), schedule, scorer, sizes)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rule", ["top_k", "chunk_top_k"])
@pytest.mark.parametrize("selector", ["recency", "random"])
def test_agrees_in_bfloat16_within_its_precision(make_model, selector, rule, attention):
    """Of scores that do not depend on hidden states, so the survivors are the same; logits then differ by rounding only."""
    model = deepcopy(make_model(4, 4, 2)).to(torch.bfloat16)
    model.set_attn_implementation(attention)
    schedule = PruneSchedule.for_depth(4, 0.6).by_rule(rule)
    scorer, prompt = selector_for(selector, model, schedule), prompt_of(130, protect=0.2)
    start, logits = run_engine(model, prompt, schedule, scorer, RowSizes(32))
    expected = reference(model, prompt, logits.argmax(-1).tolist()[:-1], schedule, scorer)
    assert [stage.positions[0].tolist() for stage in start.stages] == [list(kept) for kept in expected.kept]
    spread = expected.logits.std()
    assert (logits - expected.logits).abs().max() < 16 * 2**-8 * spread  # 8 bits of mantissa, and 4 layers that add up errors


def test_unpruned_reference_is_the_stock_model(make_model):
    model, prompt = make_model(4, 4, 2), prompt_of(50)
    expected = model(torch.from_numpy(prompt.input_ids)[None]).logits[0, -1:]
    found = reference(model, prompt, [], PruneSchedule.none(), selector_for("recency", model, PruneSchedule.none())).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


class _Holes:
    """Scores of which every third is NaN."""

    def score(self, hidden: torch.Tensor, positions: torch.Tensor, stage_index: int, lengths: torch.Tensor) -> torch.Tensor:
        return torch.where(positions % 3 == 0, torch.nan, (positions * 37 % 101).float())


@pytest.mark.parametrize("rule", ["top_k", "chunk_top_k"])
def test_agrees_where_scores_are_nan(make_model, rule):
    schedule = PruneSchedule((PruneStage(0, 0.3), PruneStage(1, 0.3)), tail_min=2).by_rule(rule)
    assert_agrees(make_model(4), prompt_of(64), schedule, _Holes())
