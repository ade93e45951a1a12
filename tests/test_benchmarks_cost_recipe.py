"""What a cost calibration measures and holds out; the times themselves are not judged."""

import pytest

from benchmarks.micro.cost_calibration import Workload, calibrate_cost
from erecap.calibration.cost_model import Setting
from erecap.models.loading import load_model


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir, "float32", "cpu")


def test_other_lengths_and_ratios_judge_the_fit(loaded):
    rounds = []
    done = calibrate_cost(loaded, Workload((120, 30), 2, 2), "recency", on_round=lambda: rounds.append(1))
    fitted, held_out = ({p for p in done.measured if p.held_out == flag} for flag in (False, True))
    assert {p.tokens for p in fitted} == {30, 120}
    assert {p.tokens for p in held_out} == {60}
    assert {str(p.schedule) for p in held_out} & {str(p.schedule) for p in fitted} == {"none"}
    assert len({len(p.schedule.stages) for p in fitted}) > 2
    assert len(rounds) == 4
    assert all(len(m.ttft_s) == len(m.decode_s) == 2 and min(m.rounds_s) > 0 for m in done.measured.values())
    assert (done.model.setting, done.model.answer_tokens) == (Setting.of(loaded, "recency"), 2)


def test_counts_are_those_of_the_schedule(loaded):
    measured = calibrate_cost(loaded, Workload((60, 120), 2, 1), "random").measured
    for point, measurement in measured.items():
        assert measurement.layer_tokens[0] == point.tokens
        assert (measurement.layer_tokens[-1] < point.tokens) == bool(point.schedule.stages)


@pytest.mark.parametrize("workload", [((64, 64), 16, 5), ((64, 96), 1, 5), ((64, 96), 16, 0)])
def test_too_little_to_measure_is_refused(workload):
    with pytest.raises(ValueError, match="needs at least two lengths, one round, and answers of two tokens"):
        Workload(*workload)
