"""The prefill measurement: what it reports and how it takes turns. Times themselves are not judged."""

import pytest
import torch

from benchmarks import prefill as module
from benchmarks.prefill import PrefillReport, measure_prefill, random_model, random_pruner
from erecap.costs import ceiling


def test_reports_counts_and_ratios():
    model = random_model(torch.float32, num_layers=3)
    report = measure_prefill(model, keep=0.5, pruner=random_pruner(model, 0.5), lengths=(40, 80), rounds=2)
    assert PrefillReport.model_validate_json(report.model_dump_json()) == report
    assert [point.prompt_tokens for point in report.points] == [40, 80]
    for point in report.points:
        assert point.ceiling == ceiling(model.config, point.layer_tokens) > 1.0
        assert point.of_ceiling_p50 == pytest.approx(point.speedup_p50 / point.ceiling)
        assert point.dropped_tokens == point.prompt_tokens - point.layer_tokens[-1] > 0


def test_calls_take_turns_and_warm_up_is_left_out():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = module._time_in_turn(calls, rounds=2, device=torch.device("cpu"))
    assert "".join(order) == "abcbcacababc"
    assert {name: len(spent) for name, spent in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_needs_a_round():
    with pytest.raises(ValueError, match="rounds=0"):
        measure_prefill(random_model(torch.float32, num_layers=3), selector="random", rounds=0)
