"""The model of cost on paper: formulas by hand, properties, the fit, and named machines against what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.calibration.flops import ceiling
from erecap.calibration.machines import MACHINES, named_machine
from erecap.calibration.paper_fit import (
    MeasuredPrefill,
    MeasuredStep,
    fit_prefill,
    fit_steps,
    held_out_errors,
    predict_prefill_s,
    predict_step_s,
    prefill_errors,
)
from erecap.calibration.paper_machine import Efficiency, Link, Machine, Rate
from erecap.calibration.paper_model import ModelWork, Split, head_s, prefill_times, step_times
from erecap.profiling.layer_counts import tokens_by_layer
from erecap.profiling.shapes import shape_config

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SINGLE, PIPELINE, TENSOR = Split("single", 1), Split("pipeline", 2), Split("tensor", 2)
WORK = ModelWork(
    layers=4, heads=4, kv_heads=2, linear_flops=200, pair_flops=8, scorer_flops=10, layer_bytes=1000, head_bytes=500,
    table_bytes=500, kv_bytes=16, hidden_bytes=20,
)  # fmt: skip
QWEN = ModelWork.of(shape_config("qwen2-7b"), 2)


def rate(value: float) -> Rate:
    return Rate(value, "given", "test")


def machine(flops=1e4, memory=1e5, link=1e3, latency=0.01, bus=2e3, all_reduce=0.02, layer_s=0.0, step_layer_s=0.0) -> Machine:
    """A machine so slow that its seconds can be worked out by hand."""
    reached = Efficiency(0.5, 0.25, 0.5, layer_s, step_layer_s, "given", "test", "given", "test")
    connection = Link(rate(link), rate(latency), rate(bus), rate(all_reduce))
    return Machine("slow", 2, rate(flops), rate(memory), None, connection, reached)


def test_a_prefill_on_one_device_by_hand():
    layers = prefill_times(machine(), WORK, SINGLE, (10, 10, 6, 6))
    # 200 x 10 at half of 1e4 FLOP/s, and 8 x 55 pairs at a quarter of it
    assert layers[0].compute_s == pytest.approx(2000 / 5e3 + 440 / 2.5e3)
    # The second layer is followed by a stage, which scores 10 tokens.
    assert layers[1].compute_s == pytest.approx(layers[0].compute_s + 100 / 5e3)
    assert layers[2].compute_s == pytest.approx(1200 / 5e3 + 8 * 21 / 2.5e3)
    assert layers[0].read_s == pytest.approx(1000 / 5e4)
    assert all(layer.busy_s == layer.compute_s and layer.traffic_s == layer.traffic_bytes == 0 for layer in layers)
    assert head_s(machine(), WORK, SINGLE) == pytest.approx(500 / 5e4)
    assert predict_prefill_s(machine(), WORK, (10, 10, 6, 6)) == pytest.approx(sum(x.compute_s for x in layers) + 0.01)


def test_a_pipeline_hands_on_what_is_left():
    layers = prefill_times(machine(), WORK, PIPELINE, (10, 10, 6, 6))
    assert [layer.traffic_bytes for layer in layers] == [0, 6 * 20, 0, 0]
    assert layers[1].traffic_s == pytest.approx(0.01 + 120 / 1e3)
    alone = prefill_times(machine(), WORK, SINGLE, (10, 10, 6, 6))
    assert [layer.busy_s for layer in layers] == [layer.busy_s for layer in alone]


def test_tensor_parallel_sums_twice_per_layer():
    layers = prefill_times(machine(), WORK, TENSOR, (10, 10, 6, 6))
    alone = prefill_times(machine(), WORK, SINGLE, (10, 10, 6, 6))
    assert layers[0].compute_s == pytest.approx(alone[0].compute_s / 2)
    assert layers[1].compute_s == pytest.approx(alone[0].compute_s / 2 + 100 / 5e3)  # every device scores all tokens
    # Two all-reduces of 10 x 20 bytes; on two devices each sends as much as it has.
    assert layers[0].traffic_bytes == pytest.approx(2 * 200)
    assert layers[0].traffic_s == pytest.approx(2 * (0.02 + 200 / 2e3))
    assert machine().all_reduce_s(800, 8) == pytest.approx(0.02 + 800 * 1.75 / 2e3)


def test_a_decode_step_reads_weights_and_cache():
    layers = step_times(machine(flops=1e9), WORK, SINGLE, (10, 10, 6, 6))
    assert layers[0].read_s == layers[0].busy_s == pytest.approx((1000 + 160) / 5e4)
    assert layers[3].read_s == pytest.approx((1000 + 96) / 5e4)
    halves = step_times(machine(flops=1e9), WORK, TENSOR, (10, 10, 6, 6))
    assert halves[0].read_s == pytest.approx(layers[0].read_s / 2)
    assert halves[0].traffic_s == pytest.approx(2 * (0.02 + 20 / 2e3))
    assert [layer.traffic_bytes for layer in step_times(machine(), WORK, PIPELINE, (1,) * 4)] == [0, 20, 0, 0]


def test_no_layer_is_faster_than_its_launch():
    assert all(layer.busy_s == 9 for layer in prefill_times(machine(layer_s=9), WORK, TENSOR, (1,) * 4))
    assert all(layer.busy_s == 7 for layer in step_times(machine(step_layer_s=7), WORK, SINGLE, (1,) * 4))


def test_qwen2_7b_on_paper():
    assert QWEN.layers * QWEN.linear_flops == pytest.approx(13.05e9, rel=1e-3)
    assert QWEN.layers * QWEN.layer_bytes + QWEN.head_bytes == pytest.approx(14.14e9, rel=1e-3)  # without biases and norms
    assert 32768 * QWEN.hidden_bytes == pytest.approx(235e6, rel=1e-3)  # what a boundary carries at 32K
    assert QWEN.kv_bytes * QWEN.layers * 4096 == 234881024  # as measured on an H200


def test_what_a_device_has_to_hold():
    tokens = (10, 10, 6, 6)
    whole = 4 * 1000 + 16 * 32
    assert SINGLE.needed_bytes(WORK, tokens) == whole + 1000
    assert PIPELINE.needed_bytes(WORK, tokens) == whole / 2 + 500
    assert TENSOR.needed_bytes(WORK, tokens) == whole / 2 + 250 + 500
    assert Split("pipeline", 4).boundaries(28) == {6, 13, 20}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split("tensor", 8), "4 KV heads and 28 query heads do not divide by 8 devices.*--gpus 2 or 4"),
        (Split("tensor", 3), "do not divide by 3"),
        (Split("pipeline", 29), "29 devices in a pipeline need a layer each"),
    ],
)
def test_what_cannot_be_split(split, message):
    with pytest.raises(ValueError, match=message):
        split.check(QWEN)


lengths = st.integers(min_value=64, max_value=40_000)
keeps = st.sampled_from([0.5, 0.7, 0.8, 0.9])
splits = st.sampled_from([SINGLE, Split("pipeline", 4), Split("tensor", 4)])
machines = st.sampled_from([named_machine(name) for name in MACHINES])
quick = settings(max_examples=40, deadline=None)


@quick
@given(machines, lengths, keeps, splits, st.floats(min_value=1, max_value=100))
def test_more_bandwidth_is_never_slower(place, length, keep, split, factor):
    tokens = tokens_by_layer(length, keep, QWEN.layers)
    link = place.link
    faster_link = replace(
        link, bytes_per_s=rate(link.bytes_per_s.value * factor), bus_bytes_per_s=rate(link.bus_bytes_per_s.value * factor)
    )
    faster_memory = rate(place.memory_bytes_per_s.value * factor)
    for better in (replace(place, link=faster_link), replace(place, memory_bytes_per_s=faster_memory)):
        assert predict_prefill_s(better, QWEN, tokens, split) <= predict_prefill_s(place, QWEN, tokens, split)
        assert predict_step_s(better, QWEN, tokens, split) <= predict_step_s(place, QWEN, tokens, split)


@quick
@given(machines, lengths, keeps, splits)
def test_pruning_never_adds_traffic_or_reading(place, length, keep, split):
    full, pruned = (tokens_by_layer(length, share, QWEN.layers) for share in (1.0, keep))

    def traffic(tokens):
        return sum(layer.traffic_bytes for layer in prefill_times(place, QWEN, split, tokens))

    assert traffic(pruned) <= traffic(full)
    assert predict_step_s(place, QWEN, pruned, split) <= predict_step_s(place, QWEN, full, split)


@quick
@given(machines, lengths, keeps)
def test_one_prompt_gains_nothing_from_a_pipeline(place, length, keep):
    tokens = tokens_by_layer(length, keep, QWEN.layers)
    assert predict_prefill_s(place, QWEN, tokens, Split("pipeline", 4)) > predict_prefill_s(place, QWEN, tokens)


@quick
@given(machines, lengths, keeps)
def test_pruning_gains_no_more_than_the_dropped_work(place, length, keep):
    """Without least times, compute on one device falls by no more than the ceiling of counted work allows at equal efficiencies."""
    equal = replace(place, efficiency=replace(place.efficiency, attention=place.efficiency.linear, layer_s=0.0))
    full, pruned = (tokens_by_layer(length, share, QWEN.layers) for share in (1.0, keep))
    gain = predict_prefill_s(equal, QWEN, full) / predict_prefill_s(equal, QWEN, pruned)
    assert gain <= ceiling(shape_config("qwen2-7b"), pruned) * (1 + 1e-9)


def synthetic(place: Machine, lengths=(256, 1024, 4096, 16384, 32768)) -> list[MeasuredPrefill]:
    cases = [tokens_by_layer(length, keep, QWEN.layers) for length in lengths for keep in (1.0, 0.7)]
    return [MeasuredPrefill(tokens, predict_prefill_s(place, QWEN, tokens)) for tokens in cases]


def test_a_fit_finds_what_made_the_figures():
    truth = named_machine("8xh200")
    start = replace(truth, efficiency=replace(truth.efficiency, linear=0.1, attention=0.1, layer_s=0.0))
    found = fit_prefill(start, QWEN, synthetic(truth), "made up")
    assert found.linear == pytest.approx(truth.efficiency.linear, rel=0.02)
    assert found.attention == pytest.approx(truth.efficiency.attention, rel=0.05)
    assert found.layer_s == pytest.approx(truth.efficiency.layer_s, rel=0.05)
    assert found.largest_error < 0.02
    assert (found.basis, found.source) == ("measured", "made up")


def test_short_prompts_give_one_efficiency_for_all():
    truth = named_machine("8xrtx5880")
    found = fit_prefill(truth, QWEN, synthetic(truth, (1024, 2048, 4096)), "made up")
    assert found.linear == found.attention == pytest.approx(truth.efficiency.linear, rel=0.02)


def test_held_out_errors_do_not_see_their_length():
    truth = named_machine("8xh200")
    points, slow = synthetic(truth), tokens_by_layer(8192, 1.0, 28)
    points.append(MeasuredPrefill(slow, 2 * predict_prefill_s(truth, QWEN, slow)))
    errors = held_out_errors(truth, QWEN, points)
    assert errors[-1] == pytest.approx(-0.5, abs=0.03)  # the others do not know of the point that took twice as long
    assert held_out_errors(truth, QWEN, points[:2]) == [None, None]
    with pytest.raises(ValueError, match="2 measured prefills are too few"):
        fit_prefill(truth, QWEN, points[:2], "")


def test_decode_steps_fit_reading_and_launching():
    truth = named_machine("8xh200")
    cached = tokens_by_layer(4096, 1.0, 28)
    captured = replace(truth, efficiency=replace(truth.efficiency, step_layer_s=0.0))
    steps = [MeasuredStep(cached, predict_step_s(captured, QWEN, cached), True), MeasuredStep(cached, 0.02, False)]
    found = fit_steps(replace(truth, efficiency=replace(truth.efficiency, reading=0.9)), QWEN, steps, "made up")
    assert found.reading == pytest.approx(truth.efficiency.reading, rel=0.01)
    assert predict_step_s(replace(truth, efficiency=found), QWEN, cached) == pytest.approx(0.02, rel=0.01)


def published(file: str, shortest: int = 0) -> list[MeasuredPrefill]:
    return [
        MeasuredPrefill(tokens_by_layer(p["prompt_tokens"], p["keep"], 28), p["median_ttft_ms"] / 1e3)
        for p in json.loads((RESULTS / file).read_text())["points"]
        if p["status"] == "ok" and p["prompt_tokens"] >= shortest
    ]


def test_the_error_of_the_seed_s_machine_is_as_stated():
    errors = prefill_errors(named_machine("8xrtx5880"), QWEN, published("seed-rtx5880/prefill.json"))
    assert max(map(abs, errors)) == pytest.approx(named_machine("8xrtx5880").efficiency.largest_error, abs=0.01)


def test_the_h200_is_predicted_as_it_was_measured():
    """From 4,096 tokens on; shorter prompts depend on the host of the day."""
    for file in ("nvidia-h200/prefill.json", "nvidia-h200/prefill-cudnn-plans.json"):
        errors = prefill_errors(named_machine("8xh200"), QWEN, published(file, 4096))
        assert max(map(abs, errors)) < 0.12, file


def test_every_figure_of_a_machine_has_a_source():
    for name in MACHINES:
        place = named_machine(name)
        figures = [place.matrix_flops_per_s, place.memory_bytes_per_s, *vars(place.link).values()]
        assert all(figure.value > 0 and figure.basis and figure.source for figure in figures)
        assert place.efficiency.source
        assert place.efficiency.step_source


def test_unknown_machines_are_refused():
    with pytest.raises(ValueError, match="'abacus' is not known: use 8xh200 or 8xrtx5880"):
        named_machine("abacus")
