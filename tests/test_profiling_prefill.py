"""The prefill profile: counts, new lengths, stock generate, what is left out, and the cost of stages. Times are not judged."""

import re

import pytest
import torch

from erecap import PruneSchedule, SelectorContext, make_selector, prefill
from erecap.calibration.flops import ceiling
from erecap.profiling import new_lengths, prefill_profile
from erecap.profiling.cli import main
from erecap.profiling.measurement import Measurement
from erecap.profiling.new_lengths import draw_rounds
from erecap.profiling.options import make_parser
from erecap.profiling.results import read_result
from erecap.profiling.shapes import make_random_model, make_random_prompt, make_random_pruner, shape_config
from erecap.profiling.stage_cost import measure_stage_cost
from erecap.profiling.time_budget import TimeBudget


@pytest.fixture
def profile(tmp_path):
    """``profile(*words)``: the points of a prefill profile of nano on the CPU, and its exit code."""

    def run(*words: str, code: int = 0):
        out = tmp_path / "prefill.json"
        if "--model" not in words:
            words = ("--shape", "nano", *words)
        assert main(["prefill", *words, "--device", "cpu", "--dtype", "float32", "--out", str(out)]) == code
        return read_result(out)["points"]

    return run


def test_says_what_was_dropped_and_counted(profile, capsys):
    baseline, pruned = profile("--lengths", "256", "--keep", "1,0.7", "--rounds", "2", "--new-lengths", "0")
    config = shape_config("nano")
    assert baseline["speedup"] == baseline["ceiling"] == 1
    assert pruned["ceiling"] == ceiling(config, pruned["layer_tokens"]) > 1.5
    assert pruned["share_of_ceiling"] == pytest.approx(pruned["speedup"] / pruned["ceiling"])
    assert pruned["layer_tokens"][0] == 256 > pruned["layer_tokens"][-1]
    assert pruned["final_share"] == pruned["layer_tokens"][-1] / 256
    assert baseline["kv_bytes"] > pruned["kv_bytes"]
    for point in (baseline, pruned):
        assert point["counted_flops"] == pytest.approx(point["analytic_flops"], rel=0.02)
        assert point["p25_ttft_ms"] <= point["median_ttft_ms"] <= point["p75_ttft_ms"]
        assert point["achieved_flops_per_s"] == pytest.approx(point["prefill_flops"] / point["median_ttft_ms"] * 1e3, rel=0.5)
        assert "peak_memory_bytes" not in point  # of a process on a CPU only `memory` says it
    assert "of ceiling" in capsys.readouterr().out


def test_stock_generate_takes_its_turn_beside_the_baseline(profile, monkeypatch):
    order = []
    monkeypatch.setattr(prefill_profile, "stock_seconds_to_first_token", lambda model, prompt: order.append("stock") or 4.0)
    monkeypatch.setattr(
        prefill_profile, "seconds_to_first_token", lambda model, prompt, variant: order.append(len(variant[0].stages)) or 2.0
    )
    words = ("--lengths", "64", "--keep", "1,0.7", "--rounds", "2", "--new-lengths", "0", "--no-count")
    baseline, pruned = profile(*words)
    assert order == [0, 6, "stock"] * 2 + [6, "stock", 0]
    assert baseline["stock_over_baseline"] == 2
    assert baseline["median_stock_ttft_ms"] == 4000
    assert "stock_over_baseline" not in pruned
    assert "median_stock_ttft_ms" not in profile(*words, "--no-stock")[0]


def test_stock_generate_is_that_of_transformers(profile):
    (baseline,) = profile("--lengths", "32", "--keep", "1", "--rounds", "1", "--new-lengths", "0", "--no-count")
    assert baseline["median_stock_ttft_ms"] > 0


def test_every_variant_meets_new_lengths_of_its_own():
    met = {96, 100}
    first = draw_rounds(100, 3, 2, met)
    second = draw_rounds(100, 3, 2, met)
    drawn = [tokens for round_ in (*first, *second) for tokens in round_]
    assert len(first) == 2
    assert len(second) == 1  # of 90..99 without 96 nine are free
    assert len(set(drawn)) == 9
    assert {*drawn, 96, 100} == {*range(90, 101)} == met
    assert max(max(round_) - min(round_) for round_ in (*first, *second)) <= 3


def test_new_lengths_are_timed_beside_met_ones(profile, monkeypatch, capsys):
    seen = []

    def first_token(model, prompt, variant):
        seen.append((len(prompt), len(variant[0].stages)))
        return len(prompt) / (2 if variant[0].stages else 1)

    monkeypatch.setattr(new_lengths, "seconds_to_first_token", first_token)
    points = profile("--lengths", "100,105", "--keep", "1,0.7", "--rounds", "1", "--new-lengths", "3", "--no-count", "--no-stock")
    assert [point["new_lengths"] for point in points] == [3] * 4
    assert [point["new_speedup"] for point in points] == pytest.approx([1, 2, 1, 2], rel=0.02)
    assert points[1]["new_speedup_of_met"] == pytest.approx(points[1]["new_speedup"] / points[1]["speedup"])
    assert points[0]["median_new_ttft_ms"] == pytest.approx(95e3, rel=0.06)
    assert len({length for length, _ in seen}) == len(seen) == 12
    assert not {length for length, _ in seen} & {100, 105}
    assert [stages > 0 for _, stages in seen[:6]] == [False, True, True, False, False, True]
    assert "of met" in capsys.readouterr().out


def test_without_a_baseline_there_is_no_speedup(profile, capsys):
    (pruned,) = profile("--lengths", "64", "--keep", "0.7", "--rounds", "1", "--new-lengths", "1", "--no-count")
    assert "speedup" not in pruned
    assert "new_speedup" not in pruned
    assert pruned["new_lengths"] == 1
    assert "speedup" not in capsys.readouterr().out


def test_what_does_not_fit_into_the_time_is_left_out(profile, monkeypatch):
    def slow(budget: TimeBudget, layer_tokens: object, seconds: float) -> None:
        budget._flops_per_s, budget._end = 1.0, 0.0

    monkeypatch.setattr(TimeBudget, "learn", slow)
    points = profile("--lengths", "64,128", "--keep", "1", "--rounds", "1")
    assert [point["status"][:8] for point in points] == ["ok", "left out"]
    assert "new_lengths" not in points[0]


def test_a_first_length_that_would_take_far_too_long_is_left_out(profile):
    points = profile("--lengths", "64,128", "--keep", "1", "--rounds", "1", "--seconds", "1e-7")
    assert all(re.match(r"left out: it would take longer than --seconds allows, about \d+ s$", point["status"]) for point in points)


def test_what_a_cpu_has_no_memory_for_is_left_out(profile, monkeypatch):
    monkeypatch.setattr(prefill_profile, "available_bytes", lambda: 2_000_000)
    points = profile("--lengths", "64,512", "--keep", "1", "--rounds", "1", "--no-count", "--new-lengths", "0")
    assert [point["status"][:13] for point in points] == ["ok", "out of memory"]
    assert points[1]["status"].endswith("needs 0.0 GB and 0.0 GB are free")


def test_default_lengths_beyond_the_positions_are_rows(profile, model_dir, monkeypatch):
    monkeypatch.setattr("erecap.profiling.measurement.LENGTHS", {"prefill": (64, 100_000)})
    words = ("--model", model_dir, "--keep", "1,0.7", "--rounds", "1", "--new-lengths", "0", "--no-count", "--no-stock")
    points = profile(*words)
    assert [(point["prompt_tokens"], point["status"][:20]) for point in points] == [
        (64, "ok"),
        (64, "ok"),
        (100_000, "left out: beyond the"),
        (100_000, "left out: beyond the"),
    ]


@pytest.mark.parametrize("name", ["learned", "random", "gradient"])
def test_the_cost_of_stages_is_that_of_the_same_prefill(name):
    model = make_random_model(shape_config("nano"), torch.device("cpu"), torch.float32)
    schedule, prompt = PruneSchedule.for_depth(8, 0.5), make_random_prompt(model, 80)
    selector = make_selector(name, SelectorContext(schedule, make_random_pruner(model, schedule), model=model))
    cost = measure_stage_cost(model, prompt, schedule, selector, rounds=1)
    assert min(cost.scoring, cost.selecting, cost.dropping) > 0
    assert cost.scoring + cost.selecting + cost.dropping < 1
    if name == "gradient":  # it runs the model, a backward pass included, before the first layer
        assert cost.scoring > 0.5
    nothing = measure_stage_cost(model, prompt, PruneSchedule.none(), selector, rounds=1)
    assert nothing.scoring == nothing.selecting == nothing.dropping == 0


def test_selectors_that_take_gradients_can_be_profiled():
    words = ["prefill", "--shape", "nano", "--selector", "gradient", "--keep", "0.7", "--device", "cpu", "--dtype", "float32"]
    run = Measurement(make_parser().parse_args(words))
    with run.conditions():
        assert len(prefill(run.model, make_random_prompt(run.model, 40), *run.variants[0.7]).stages) == 6
