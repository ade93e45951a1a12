"""Schedules for a budget: the least pruning that fits, by exact counts, against a search through the whole grid."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config

from erecap.calibration.cost_model import prefill_work
from erecap.calibration.flops import flops_cost, prefill_flops
from erecap.schedule import BudgetError, PruneSchedule, PruneStage, layer_tokens, parse_stages
from erecap.schedule.search import KEEPS, stage_sets

CONFIG = Qwen2Config(hidden_size=128, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=1)
DEPTHS = st.integers(2, 12)
MASKS = st.builds(
    lambda length, share, seed: np.random.default_rng(seed).random(length) < share,
    st.integers(128, 600), st.sampled_from([0.0, 0.2, 0.6]), st.integers(0, 99),
)  # fmt: skip
PRICES = st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5).map(lambda prices: np.array(prices) * [1, 1, 0.01, 10, 0.1])
SHARES = st.floats(0.05, 1.2)


def cost_by(prices):
    """A cost model of these prices, stages included."""
    return lambda tokens: float(np.dot(prices, prefill_work(tokens)))


def candidates(depth):
    """Everything that may be chosen, in the order in which it is preferred."""
    pruned = [
        PruneSchedule(tuple(PruneStage(layer, keep) for layer in layers)) for layers in stage_sets(depth, None) for keep in KEEPS
    ]
    return [PruneSchedule.none(), *pruned]


@given(DEPTHS, MASKS, PRICES, SHARES)
def test_no_schedule_that_is_preferred_fits(depth, protected, prices, share):
    cost, order = cost_by(prices), candidates(depth)
    spent = [cost(layer_tokens(schedule, depth, protected)) for schedule in order]
    budget = max(share * spent[0], 1e-9)
    choice = PruneSchedule.choose(depth, cost, budget, protected)
    assert choice.cost == spent[order.index(choice.schedule)]
    assert choice.met == (choice.cost <= budget) == (min(spent) <= budget)
    if choice.met:
        assert all(other > budget for other in spent[: order.index(choice.schedule)])
    else:
        assert choice.cost == min(spent)


@given(DEPTHS, MASKS, PRICES, SHARES, SHARES)
def test_more_budget_never_prunes_more(depth, protected, prices, one, other):
    cost, order = cost_by(prices + 1e-6), candidates(depth)
    whole = cost([len(protected)] * depth)
    less, more = (PruneSchedule.choose(depth, cost, share * whole, protected) for share in sorted((one, other)))
    assert more.met >= less.met
    if less.met:
        assert order.index(more.schedule) <= order.index(less.schedule)


@given(st.integers(128, 4000), st.floats(0.2, 1.1))
def test_a_budget_in_flops_is_kept(tokens, share):
    def flops(schedule):
        return sum(prefill_flops(CONFIG, layer_tokens(schedule, 8, np.zeros(tokens, np.bool_))))

    budget = share * flops(PruneSchedule.none())
    if min(flops(schedule) for schedule in candidates(8)) > budget:
        with pytest.raises(BudgetError, match=f"a prompt of {tokens} tokens, 0 of them protected"):
            PruneSchedule.for_budget(8, flops_cost(CONFIG), budget, tokens)
        return
    schedule = PruneSchedule.for_budget(8, flops_cost(CONFIG), budget, tokens)
    assert flops(schedule) <= budget
    assert (share >= 1.0) == (schedule == PruneSchedule.none())


def test_earlier_stages_come_where_those_of_the_seed_do_not_suffice():
    def cost(tokens):
        return float(sum(tokens))

    length = 2000
    limit = cost(layer_tokens(PruneSchedule.for_depth(8, KEEPS[-1]), 8, np.zeros(length, np.bool_)))
    assert str(PruneSchedule.for_budget(8, cost, limit, length)) == "1-6@0.3"
    assert str(PruneSchedule.for_budget(8, cost, limit - 1, length)).startswith("0-6@")
    with pytest.raises(BudgetError, match=r"the cheapest schedule \(1-6@0.3\)"):
        PruneSchedule.for_budget(8, cost, limit - 1, length, stages=range(1, 7))


def test_stages_that_a_pruner_has_limit_the_choice():
    assert stage_sets(8, None) == [(1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6)]
    assert stage_sets(8, (1, 2, 3, 4, 5, 6)) == [(1, 2, 3, 4, 5, 6)]
    assert stage_sets(8, (0, 7)) == [(0,)]  # none is the seed's, and nothing follows the last layer
    assert stage_sets(1, None) == []


def test_what_is_protected_counts():
    protected = np.ones(1000, np.bool_)
    with pytest.raises(BudgetError, match="1000 tokens, 1000 of them protected"):
        PruneSchedule.for_budget(8, flops_cost(CONFIG), 1e3, protected)


def test_a_stage_that_costs_more_than_it_saves_is_not_chosen():
    choice = PruneSchedule.choose(8, cost_by([0, 1, 0, 1e6, 0]), 1.0, np.zeros(1000, np.bool_))
    assert (choice.schedule, choice.met) == (PruneSchedule.none(), False)


def test_a_prompt_is_a_length_of_any_integer_kind():
    made = [PruneSchedule.for_budget(8, sum, 500, length) for length in (100, np.int64(100), np.zeros(100, np.bool_))]
    assert made[0].stages
    assert made[0] == made[1] == made[2]
    with pytest.raises(ValueError, match="at least 1"):
        PruneSchedule.for_budget(8, sum, 500, -5)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_must_be_positive(budget):
    with pytest.raises(ValueError, match="must be positive"):
        PruneSchedule.for_budget(8, flops_cost(CONFIG), budget, 100)


@pytest.mark.parametrize("depth", [8, 28, 80])
def test_bisection_holds_from_the_length_that_is_promised(depth):
    """Every stage drops a token at the least pruning, so that less pruning is nowhere cheaper by leaving a stage out."""
    tokens = layer_tokens(PruneSchedule(tuple(PruneStage(i, KEEPS[0]) for i in range(depth - 1))), depth, np.zeros(140, np.bool_))
    assert all(a > b for a, b in pairwise(tokens))


@given(st.lists(st.integers(0, 40), max_size=12, unique=True).map(sorted))
def test_a_schedules_short_form_reads_back(layers):
    short = str(PruneSchedule(tuple(PruneStage(layer, 0.62) for layer in layers)))
    text, _, keep = short.partition("@")
    assert (parse_stages(text), keep) == (tuple(layers), "0.62") if layers else short == "none"


def test_several_ratios_are_several_groups():
    stages = tuple(PruneStage(layer, 0.5 if layer > 3 else 0.9) for layer in (0, 2, 3, 5))
    assert str(PruneSchedule(stages)) == "0+2-3@0.9,5@0.5"
