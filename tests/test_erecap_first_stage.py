"""Schedules of equal kept share, losses of answers after a pruned prefill, and the rule of recommendation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.engine.prefill import prefill
from erecap.first_stage.answers import AnswerCase, agreement, answer_case, answer_losses
from erecap.first_stage.points import StagePoint, beside_floor, explain, recommend
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.schedule.equal_share import ShareError, first_layers, kept_share, schedule_of_share, stages_from
from erecap.selectors import RandomSelector

EOS = frozenset({2})


def masks(*lengths: int) -> list[np.ndarray]:
    found = []
    for length in lengths:
        mask = np.zeros(length, np.bool_)
        mask[:20] = True
        mask[-30:] = True
        found.append(mask)
    return found


def prompt(length: int, seed: int = 0) -> TokenizedPrompt:
    return TokenizedPrompt.from_ids(np.random.default_rng(seed).integers(3, 300, length))


def loaded(model, tokenizer) -> LoadedModel:
    return LoadedModel(model, tokenizer, torch.device("cpu"), torch.float32, EOS, (torch.device("cpu"),))


def test_stages_follow_the_seed_from_another_beginning():
    assert stages_from(4, 28) == tuple(range(4, 26, 3))
    assert stages_from(0, 28) == tuple(range(0, 26, 3))
    assert stages_from(0, 8) == (0, 1, 2, 3, 4, 5)
    assert stages_from(4, 28, allowed=(4, 6, 8, 12, 26)) == (4, 8, 12)
    assert first_layers(28)[-1] == 25
    assert first_layers(8, allowed=(1, 3, 7)) == (1, 3)
    with pytest.raises(ValueError, match=r"first=7 .*\[0, 1, 2, 3, 4, 5\]"):
        stages_from(7, 8)


@pytest.mark.parametrize(("layers", "share"), [(8, 0.8), (8, 0.6), (28, 0.7)])
def test_all_first_stages_keep_the_same_mean_share(layers, share):
    prompts, found = masks(700, 1300, 2100), []
    for first in first_layers(layers):
        try:
            found.append(schedule_of_share(stages_from(first, layers), layers, share, prompts))
        except ShareError:
            assert first >= layers * (share - 0.3)  # only late ones, which leave too many layers whole
    assert len(found) >= layers * 0.3
    assert [kept_share(schedule, layers, prompts) for schedule in found] == pytest.approx([share] * len(found), rel=0.01)
    assert all(a.stages[0].keep > b.stages[0].keep for a, b in pairwise(found))


def test_a_share_that_cannot_be_reached_names_the_nearest():
    with pytest.raises(ShareError, match=r"share=0\.3 .*layers \[5\]") as caught:
        schedule_of_share((5,), 8, 0.3, masks(800))
    assert caught.value.nearest == pytest.approx(0.75 + 0.25 * (20 + 80) / 800, abs=0.001)
    lowest = schedule_of_share((5,), 8, caught.value.nearest, masks(800))
    assert lowest.stages[0].keep == pytest.approx((20 + 80) / 800, abs=0.001)  # head and tail: no lower ratio drops more
    with pytest.raises(ValueError, match="between 0 and 1"):
        schedule_of_share((0,), 8, 1.0, masks(800))
    with pytest.raises(ValueError, match="0 prompts"):
        schedule_of_share((0,), 8, 0.5, [])


def test_the_loss_without_pruning_is_that_of_transformers(make_model):
    model, case = make_model(), AnswerCase(prompt(90), tuple(prompt(7, seed=1).input_ids.tolist()))
    losses = answer_losses(model, prefill(model, case.prompt), case.answer)
    ids = torch.tensor([[*case.prompt.input_ids.tolist(), *case.answer]])
    labels = ids.clone()
    labels[:, :90] = -100
    assert float(losses.mean()) == pytest.approx(float(model(input_ids=ids, labels=labels).loss), abs=1e-4)


def test_a_pruned_loss_is_that_of_decoding_the_answer_from_the_pruned_cache(make_model):
    model, schedule = make_model(), PruneSchedule.after((1, 3), 0.5)
    full, selector = prompt(120), RandomSelector(3)
    start = prefill(model, full, schedule, selector)
    answer = (5, 9, 11)
    losses = answer_losses(model, start, answer)
    lengths = [layer.get_seq_length() for layer in start.cache.layers]
    assert lengths == list(start.layer_tokens[0])  # the cache is the prompt's again
    # the first token is read off the prefill, and later ones differ from those after the whole prompt
    assert float(losses[0]) == pytest.approx(float(-start.logits.log_softmax(-1)[0, 5]), abs=1e-5)
    whole = answer_losses(model, prefill(model, full), answer)
    assert (losses - whole).abs().min() > 1e-3


def test_the_empty_schedule_agrees_with_itself_and_a_harsh_one_does_not(make_model, tokenizer):
    planner = loaded(make_model(), tokenizer)
    case = AnswerCase(prompt(150), (7, 8, 2))
    full = answer_case(planner, case, PruneSchedule.none(), None, 12)
    again = answer_case(planner, case, PruneSchedule.none(), None, 12)
    harsh = answer_case(planner, case, PruneSchedule.after((0, 1), 0.1), RandomSelector(0), 12)
    same, other = (agreement(made.tokens, full.tokens, tokenizer.decode, EOS) for made in (again, harsh))
    assert (again.loss, same.plan, same.first_line, same.tokens) == (full.loss, True, True, 1.0)
    assert harsh.kv_bytes < full.kv_bytes == again.kv_bytes
    assert not other.plan
    assert other.tokens < 1.0


def test_agreement_counts_places_of_the_longer_answer(tokenizer):
    one, two = (tokenizer("explore\ngoto kitchen")["input_ids"], tokenizer("explore\ndone")["input_ids"])
    found = agreement([*one, 2], [*two, 2], tokenizer.decode, EOS)
    assert (found.plan, found.first_line) == (False, True)
    assert 0 < found.tokens < 1
    assert agreement([5, 6], [5, 6, 7, 8], tokenizer.decode, EOS).tokens == 0.5
    with pytest.raises(ValueError, match="0 tokens"):
        AnswerCase(prompt(5), ())


POINT = StagePoint("learned", 0.6, 0, "0-5", 0.8, 0.6, 0.4, 0.6, 2.0, 0.1, 0.0, (0.0, 0.0), 1.0, 1.0, 1.0)


@st.composite
def points(draw) -> list[StagePoint]:
    places = draw(st.lists(st.tuples(st.sampled_from((0.7, 0.5, 0.3)), st.integers(0, 8)), unique=True, max_size=20))
    made = []
    for share, first in places:
        low, width = draw(st.floats(-0.1, 0.2)), draw(st.floats(0, 0.1))
        ceiling = draw(st.floats(1, 6))
        made.append(
            replace(POINT, share=share, first=first, loss_diff=low, loss_diff_ci95=(low, low + width), ttft_ceiling=ceiling)
        )
    return made


@given(points(), st.floats(0, 0.2))
def test_the_recommendation_is_the_cheapest_of_the_earliest_that_hold(found, tolerance):
    chosen = recommend(found, tolerance)
    holding = [p for p in found if p.loss_diff_ci95[1] <= tolerance]
    assert (chosen is None) == (not holding)
    if chosen is None:
        return
    assert chosen in holding
    assert not [p for p in holding if p.share == chosen.share and p.first < chosen.first]
    earliest = [p for p in holding if not any(q.share == p.share and q.first < p.first for q in holding)]
    assert chosen.ttft_ceiling == max(p.ttft_ceiling for p in earliest)
    assert recommend(reversed(found), tolerance).ttft_ceiling == chosen.ttft_ceiling
    assert f"layer {chosen.first}" in explain(found, [], tolerance)


def test_the_reason_says_whether_the_scorer_was_tested():
    bad = replace(POINT, loss_diff=0.5, loss_diff_ci95=(0.3, 0.7))
    later = replace(POINT, first=1, stages="1-5", ttft_ceiling=1.9)
    assert "after layer 0 it does not" in explain([bad, later], [], 0.02)
    random_bad, random_good = replace(bad, selector="random", first=1, stages="1-5"), replace(later, selector="random")
    assert "do not hold there (+0.5000): the scorer is what holds it" in explain([bad, later], [random_bad], 0.02)
    assert "tests no scorer" in explain([bad, later], [random_good], 0.02)
    assert "No schedule holds within 0.02" in explain([bad], [], 0.02)
    assert explain([], [], 0.02) == "No schedule was measured."


def test_random_scores_are_compared_prompt_by_prompt_at_the_same_schedule():
    own = [replace(POINT, loss_diffs=(0.1, 0.2)), replace(POINT, first=1, stages="1-5", loss_diffs=(0.0, 0.0))]
    floor = [replace(POINT, selector="random", loss_diffs=(0.4, 0.1)), replace(POINT, selector="random", stages="0+2")]
    assert [(point, pytest.approx(more)) for point, more in beside_floor(own, floor)] == [(own[0], [0.3, -0.1])]
