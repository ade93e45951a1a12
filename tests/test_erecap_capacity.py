"""The capacity model: formulas by hand, a server of two agents by hand, and what must hold for any numbers."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.calibration.bundled_costs import find_cost
from erecap.calibration.cost_model import CostModel, Setting
from erecap.capacity.prices import PricedReplan, SessionPrices, by_schedule, recorded, steady, unpruned
from erecap.capacity.replans import Replan, SteadyWork
from erecap.capacity.search import Load, largest
from erecap.capacity.server import Server, requests_of, simulate
from erecap.models.identity import ModelIdentity
from erecap.schedule import PruneSchedule

SETTING = Setting(ModelIdentity("two layers", "none", 2, 8), "learned", "cpu", "float32", 1, "")
COST = CostModel(SETTING, 4, overhead_s=1.0, per_token_s=0.1, per_pair_s=0.01, per_stage_s=0.5, per_scored_s=0.02, step_s=2.0, per_cached_s=0.001)  # fmt: skip  # noqa: E501
H200 = find_cost("qwen2-7b-h200-graph")
REPLAN = Replan(
    prompt_tokens=10,
    new_tokens=3,
    protected_tokens=5,
    answer_tokens=4,
    passes=2,
    drafted_tokens=2,
    acting_s=7.0,
    layer_tokens=(10, 6),
)


def priced(extend_s=1.0, rebuild_s=5.0, kv_bytes=10, passes=1, acting_s=4.0, starts=False) -> PricedReplan:
    return PricedReplan(extend_s, rebuild_s, kv_bytes, 100, passes, 1.0, acting_s, starts)


def server(budget=100, rows=8) -> Server:
    return Server(step_s=0.5, token_s=0.25, cached_s=0.001, budget_bytes=budget, most_rows=rows)


def test_a_pruned_replan_costs_what_the_formulas_say():
    prices = SessionPrices(COST, 8, recorded)
    first = Replan(5, 5, 5, 3, 3, 0, 1.0, layer_tokens=(5, 4))
    begun, later = prices.episode([first, REPLAN])
    assert later.tokens_a_pass == 2.0
    tokens, pairs = 3 + 3 + 2 * 1, (3 * 7 + 6) + (3 * 3 + 6)
    extend = 1.0 + 0.1 * tokens + 0.01 * pairs + 0.5 + 0.02 * 3
    assert later.extend_s == pytest.approx(extend)
    start = 1.0 + 0.1 * 9 + 0.01 * (15 + 10) + 0.5 + 0.02 * 5
    answer = 1.0 + 0.1 * 4 + 0.01 * (2 * 5 + 3 + 2 * 4 + 3) + 0.5 + 0.02 * 2
    assert begun.extend_s == begun.rebuild_s == pytest.approx(start)
    assert later.rebuild_s == pytest.approx(start + answer + extend)
    assert (later.cached_tokens, later.kv_bytes) == (16 + 2 * 4, 24 * 8)
    assert (begun.starts, later.starts) == (True, False)


def test_an_unpruned_session_is_rebuilt_by_one_prefill():
    _, later = SessionPrices(COST, 8, unpruned(2)).episode([replace(REPLAN, drafted_tokens=0)] * 2)
    assert later.rebuild_s == pytest.approx(COST.prefill_s((10, 10)))
    assert later.extend_s < later.rebuild_s


def test_a_batch_reads_the_weights_once_and_each_cache():
    rows = [priced(passes=3), priced(passes=2)]
    assert server().decode_s(rows) == pytest.approx(2 * (0.5 + 0.25 + 0.001 * 200))
    assert server().decode_s([priced(passes=1)]) == 0
    own = Server.of(COST, 1, 1)
    assert (own.step_s, own.token_s, own.cached_s) == (2.0, pytest.approx(0.2), 0.001)


def test_two_agents_by_hand():
    """The second one asks while the first is served, and waits; at the end both ask at once and share a batch."""
    first = iter([(0.0, priced(extend_s=2.0)), (3.0, priced(extend_s=1.0))])
    second = iter([(1.0, priced(extend_s=2.0)), (0.5, priced(extend_s=1.0, passes=2))])
    # 0-2: first; 2-4: second, which has waited since 1; the second asks again at 4.5, served to 5.5 + a step of 0.5 + 0.1
    # the first asks again at 5, while that runs until 6.1, and is served to 7.1
    found = simulate(server(), [first, second], 4)
    latencies = sorted([2.0, 3.0, 1.6, 2.1])
    assert found.p50_s == pytest.approx((latencies[1] + latencies[2]) / 2)
    assert found.replans_per_s == pytest.approx(4 / 7.1)
    assert found.busy_share == pytest.approx((2 + 2 + 1.6 + 1) / 7.1)
    assert (found.rows_mean, found.rebuilt_share) == (1.0, 0.0)


def test_requests_that_wait_are_answered_together():
    agents = [iter([(0.0, priced(extend_s=1.0, passes=2))]) for _ in range(2)]
    found = simulate(server(), agents, 2)
    assert found.p50_s == found.p95_s == pytest.approx(2 + 0.5 + 0.25 + 0.2)
    alone = [iter([(0.0, priced(extend_s=1.0, passes=2))]) for _ in range(2)]
    assert simulate(server(rows=1), alone, 2).rows_mean == 1


def test_what_does_not_fit_is_evicted_and_rebuilt():
    """Room for one session of two: the second is not held at first, and each one evicts the other."""
    agents = [iter([(start, priced())] + [(10.0, priced())] * 2) for start in (0.0, 5.0)]
    found = simulate(server(budget=15), agents, 6)
    assert found.rebuilt_share == pytest.approx(5 / 6)
    assert found.p95_s == pytest.approx(5.0)
    roomy = [iter([(start, priced())] + [(10.0, priced())] * 2) for start in (0.0, 5.0)]
    assert simulate(server(budget=20), roomy, 6).rebuilt_share == 0


def test_a_new_episode_costs_a_prefill_and_is_not_called_rebuilt():
    found = simulate(server(), [iter([(0.0, priced()), (1.0, priced(starts=True))])], 2)
    assert (found.p95_s, found.rebuilt_share) == (pytest.approx(1 + 0.95 * 4), 0)


def test_too_few_requests_are_refused():
    with pytest.raises(ValueError, match="asked for 1 plans, 3 of which are for warming up"):
        simulate(server(), [iter([(0.0, priced())])], 2, warm_up=3)
    with pytest.raises(ValueError, match="a budget of 0 bytes, batches of 8"):
        server(budget=0)


def test_agents_do_the_same_in_any_number_of_agents():
    episodes = [[priced(acting_s=a) for a in (1.0, 2.0)], [priced(acting_s=3.0)]]
    one, again, other = (requests_of(number, episodes, 7) for number in (3, 3, 4))
    drawn = [next(one) for _ in range(9)]
    assert drawn == [next(again) for _ in range(9)]
    assert drawn != [next(other) for _ in range(9)]
    assert all(0 <= waited <= 1.5 * 3.0 for waited, _ in drawn)


def test_steady_work_grows_to_its_context():
    episode = SteadyWork(1000, new=100, protected=250, answer=50, passes=5, every_s=3.0).episode()
    assert [replan.prompt_tokens for replan in episode] == [250, 400, 550, 700, 850, 1000]
    assert [replan.new_tokens for replan in episode] == [250, 100, 100, 100, 100, 100]
    assert {replan.tokens_a_pass for replan in episode} == {10.0}
    held = by_schedule(PruneSchedule.after((0,), 0.5), 2)
    assert held(episode[0]) == (250, 250)
    assert held(episode[-1]) == (1000, 250 + 375)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "context=0 must be at least 1"),
        ({"protected": 90}, "new=100, protected=90, context=1000 must not fall"),
        ({"passes": 51}, "passes=51 exceeds answer=50"),
        ({"every_s": -1.0}, "every=-1.0 must be a finite number"),
    ],
)
def test_work_that_no_agent_does_is_refused(change, message):
    fields = {"context": 1000, "new": 100, "protected": 250, "answer": 50, "passes": 5, "every_s": 3.0}
    with pytest.raises(ValueError, match=message):
        SteadyWork(**(fields | change))


@given(st.integers(0, 40), st.integers(1, 60))
def test_the_search_finds_the_last_number_that_holds(last, most):
    assert largest(lambda number: number <= last, most) == min(last, most)


def load(keep: float, budget: int, context: int = 4000, seed: int = 0) -> Load:
    held = unpruned(28) if keep == 1 else by_schedule(PruneSchedule.for_depth(28, keep), 28)
    episode = SessionPrices(H200, 2048, held).episode(SteadyWork(context, 160, 512, 60, 3, 5.0).episode())
    return Load(Server.of(H200, budget, 64), [steady(episode)], seed)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.integers(10**9, 10**11), st.integers(0, 10**11), st.integers(800, 6000))
def test_by_memory_more_budget_and_less_kept_never_fit_fewer(one, other, budget, more, context):
    less, kept = sorted((one, other))
    assert load(less, budget, context).agents_by_memory >= load(kept, budget, context).agents_by_memory
    assert load(less, budget + more, context).agents_by_memory >= load(less, budget, context).agents_by_memory


def test_latency_has_a_knee_where_memory_ends():
    found = load(1, 5 * 10**9)
    assert found.outcome(found.agents_by_memory).rebuilt_share == 0
    assert found.outcome(found.agents_by_memory + 8).p95_s > 2 * found.outcome(found.agents_by_memory).p95_s
    limit = 1.5 * max(outcome.p95_s for outcome in found.found if outcome.agents <= found.agents_by_memory)
    assert found.agents_by_memory <= found.most_agents(limit, most=64) < found.agents_by_memory + 8
    assert load(0.5, 5 * 10**9).most_agents(0.3, most=128) > load(1, 5 * 10**9).most_agents(0.3, most=128)


def test_the_same_seed_gives_the_same_figures():
    assert load(0.7, 10**10).outcome(9) == load(0.7, 10**10).outcome(9)
    assert load(0.7, 10**10).outcome(9) != load(0.7, 10**10, seed=1).outcome(9)
