"""The cost model: what it charges for, that a fit finds known prices, and that it is used only where it was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.calibration.cost_fit import Measurement, fit_cost_model, non_negative, relative_error
from erecap.calibration.cost_model import CostModel, CostModelMismatchError, Setting, decode_work, prefill_work
from erecap.models.identity import ModelIdentity
from erecap.models.loading import load_model
from erecap.schedule import PruneSchedule, layer_tokens

SETTING = Setting(ModelIdentity("toy", "abc", 4, 64), "learned", "cpu (Some CPU)", "float32", 2, "2.9")
TRUE = CostModel(SETTING, 16, 5e-3, 8e-6, 1.5e-8, 6e-4, 2e-7, 5e-3, 5e-7)


def measurement(tokens, keep, noise=()):
    entered = layer_tokens(PruneSchedule.for_depth(8, keep), 8, np.zeros(tokens, np.bool_))
    factors = noise or (1.0,)
    return Measurement(
        entered, tuple(TRUE.prefill_s(entered) * f for f in factors), tuple(TRUE.decode_s(entered) * f for f in factors)
    )


FIT = [measurement(tokens, keep) for tokens in (256, 512, 1024, 4096) for keep in (1.0, 0.7, 0.4)]


def test_a_prefill_is_charged_for_what_it_does():
    assert prefill_work((10, 10, 6, 6, 4)) == (1, 36, 55 + 55 + 21 + 21 + 10, 2, 16)
    assert prefill_work((10, 10)) == (1, 20, 110, 0, 0)


def test_an_answer_reads_what_is_cached_and_what_it_adds():
    assert decode_work((10, 6), 4) == (3, (16 + 2) + (16 + 4) + (16 + 6))
    assert decode_work((10, 6), 1) == (0, 0)


def test_an_answer_is_charged_for_its_own_length():
    assert TRUE.decode_s((10, 6), 4) == pytest.approx(3 * TRUE.step_s + 60 * TRUE.per_cached_s)
    assert TRUE.replan_s((10, 6), 16) == TRUE.replan_s((10, 6))
    assert TRUE.decode_s((10, 6), 1) == 0


def test_a_file_says_where_its_prices_come_from(tmp_path):
    replace(TRUE, basis="PREDICTED from rates").save(tmp_path / "cost.json")
    assert CostModel.load(tmp_path / "cost.json").basis == "PREDICTED from rates"
    TRUE.save(tmp_path / "cost.json")
    content = json.loads((tmp_path / "cost.json").read_text())
    del content["basis"], content["checksum"]
    (tmp_path / "cost.json").write_text(json.dumps(content))
    assert CostModel.load(tmp_path / "cost.json").basis == "measured", "as in files of before"
    (tmp_path / "cost.json").write_text(json.dumps(content | {"basis": 3}))
    with pytest.raises(ValueError, match="basis=3"):
        CostModel.load(tmp_path / "cost.json")


def test_a_fit_finds_the_prices_that_were_paid():
    fitted = fit_cost_model(SETTING, 16, FIT, [measurement(2000, 0.55)])
    for name in ("overhead_s", "per_token_s", "per_pair_s", "per_stage_s", "per_scored_s", "step_s", "per_cached_s"):
        assert getattr(fitted, name) == pytest.approx(getattr(TRUE, name), rel=1e-3)
    assert (fitted.error_max, fitted.late_p90) == (pytest.approx(0, abs=1e-6), pytest.approx(1.0, abs=1e-6))


def test_a_fit_is_judged_on_what_it_has_not_seen():
    noise = (1.0, 1.1, 1.2, 1.3, 1.4)
    judged = fit_cost_model(SETTING, 16, FIT, [measurement(2000, 0.55, noise), measurement(700, 1.0)])
    assert judged.error_max == pytest.approx(1 - 1 / 1.2, rel=1e-3)
    assert judged.error_p50 == pytest.approx(judged.error_max / 2, rel=1e-3)
    assert judged.late_p90 == pytest.approx(float(np.quantile((*noise, 1.0), 0.9)), rel=1e-3)
    assert relative_error(judged, measurement(2000, 0.55, noise)) == pytest.approx(1 / 1.2 - 1, rel=1e-3)
    entered = (100,) * 8
    assert judged.late_replan_s(entered) == pytest.approx(judged.late_p90 * (judged.prefill_s(entered) + judged.decode_s(entered)))


def test_a_fast_machine_makes_no_promise_below_the_prediction():
    assert fit_cost_model(SETTING, 16, FIT, [measurement(700, 0.7, (0.5,))]).late_p90 == 1.0


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(5, 20))
def test_the_solution_is_the_non_negative_optimum(seed, columns, count):
    """Karush, Kuhn and Tucker: no price below 0, none that would gain by rising, and none in use that would gain by falling."""
    dice = np.random.default_rng(seed)
    rows, target = dice.normal(size=(count, columns)), dice.normal(size=count)
    x = non_negative(rows, target)
    gradient = rows.T @ (rows @ x - target)
    assert (x >= 0).all()
    assert (gradient > -1e-8).all()
    assert abs(gradient @ x) < 1e-8


def test_what_was_never_charged_has_no_price():
    assert non_negative(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([3.0, 6.0])).tolist() == [pytest.approx(3.0), 0.0]


@pytest.mark.parametrize(("fit", "judge", "tokens"), [([], FIT, 16), (FIT, [], 16), (FIT, FIT, 1)])
def test_a_fit_needs_measurements(fit, judge, tokens):
    with pytest.raises(ValueError, match="a cost model needs"):
        fit_cost_model(SETTING, tokens, fit, judge)


def test_saved_and_read_it_is_the_same(tmp_path):
    path = tmp_path / "sub" / "cost.json"
    TRUE.save(path)
    assert CostModel.load(path, SETTING) == TRUE
    assert [file.name for file in path.parent.iterdir()] == ["cost.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": ModelIdentity("other", "def", 4, 64)},
        {"selector": "random"},
        {"device": "NVIDIA H100"},
        {"dtype": "bfloat16"},
        {"threads": 1},
    ],
)
def test_another_setting_is_refused_and_both_are_named(tmp_path, change):
    TRUE.save(tmp_path / "cost.json")
    here = replace(SETTING, **change)
    with pytest.raises(CostModelMismatchError) as refused:
        CostModel.load(tmp_path / "cost.json", here)
    assert SETTING.describe() in str(refused.value)
    assert here.describe() in str(refused.value)


def test_versions_and_a_gpus_host_threads_may_differ(tmp_path):
    gpu = replace(SETTING, device="NVIDIA H100")
    replace(TRUE, setting=gpu).save(tmp_path / "cost.json")
    assert CostModel.load(tmp_path / "cost.json", replace(gpu, threads=16, torch="3.0")).setting == gpu


def test_the_setting_of_a_loaded_model(model_dir):
    loaded = load_model(model_dir, "float32", "cpu")
    setting = Setting.of(loaded, "recency")
    assert (setting.model, setting.dtype, setting.threads) == (loaded.identity, "float32", torch.get_num_threads())
    assert setting.device.startswith("cpu (")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no cost model at .*erecap calibrate --cost --out"),
        ("no json", "erecap calibrate --cost"),
        (json.dumps({"format_version": 0}), "has format version 0, this erecap reads 1"),
        (json.dumps({"format_version": 1}), "erecap calibrate --cost"),
        (json.dumps({"format_version": 1, "setting": {"model": {}}}), "erecap calibrate --cost"),
    ],
)
def test_a_bad_file_says_what_to_do(tmp_path, text, message):
    if text is not None:
        (tmp_path / "cost.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        CostModel.load(tmp_path / "cost.json")
