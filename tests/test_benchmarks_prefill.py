"""The prefill measurement: what it reports and how it takes turns. Times themselves are not judged."""

import pytest
import torch

from benchmarks.micro import prefill as module
from benchmarks.micro.prefill import PrefillReport, measure_prefill, random_model, random_pruner
from benchmarks.micro.pruner_cost import measure_pruner_cost
from erecap.calibration.flops import ceiling
from erecap.schedule import PruneSchedule
from erecap.selectors import SelectorContext, make_selector


def test_reports_counts_and_ratios():
    model = random_model(torch.float32, num_layers=3)
    report = measure_prefill(model, keep=0.5, pruner=random_pruner(model, 0.5), lengths=(40, 80), rounds=2)
    assert PrefillReport.model_validate_json(report.model_dump_json()) == report
    assert [point.prompt_tokens for point in report.points] == [40, 80]
    for point in report.points:
        assert point.ceiling == ceiling(model.config, point.layer_tokens) > 1.0
        assert point.of_ceiling_p50 == pytest.approx(point.speedup_p50 / point.ceiling)
        assert point.dropped_tokens == point.prompt_tokens - point.layer_tokens[-1] > 0
        assert 0 < point.scoring_share < point.pruner_share < 1


def test_calls_take_turns_and_warm_up_is_left_out():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = module._time_in_turn(calls, rounds=2, device=torch.device("cpu"))
    assert "".join(order) == "abcbcacababc"
    assert {name: len(spent) for name, spent in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_pruner_s_cost_is_that_of_the_same_prefill():
    model = random_model(torch.float32, num_layers=3)
    schedule = PruneSchedule.for_depth(3, 0.5)
    prompt = module.random_prompt(model, 80)
    for name in ("random", "gradient"):
        selector = make_selector(name, SelectorContext(schedule, model=model))
        cost = measure_pruner_cost(model, prompt, schedule, selector, rounds=1)
        assert min(cost.scoring, cost.selection, cost.dropping) > 0
        assert cost.total < 1
    assert measure_pruner_cost(model, prompt, PruneSchedule.none(), selector, rounds=1).total == 0


def test_needs_a_round():
    with pytest.raises(ValueError, match="rounds=0"):
        measure_prefill(random_model(torch.float32, num_layers=3), selector="random", rounds=0)
