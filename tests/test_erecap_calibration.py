"""Thresholds: what they keep of the prompts that they were fitted to, and their file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.calibration.thresholds import Fit, add_fits, fit_thresholds, read_calibration, threshold_of
from erecap.engine.prefill import prefill
from erecap.models.files import read_json_object, write_json_object
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage, stage_counts
from erecap.selectors import SELECTORS, RandomSelector, SelectorContext, make_selector

SCHEDULE = PruneSchedule((PruneStage(1, 0.7), PruneStage(2, 0.7), PruneStage(4, 0.8)))
TIED = st.sampled_from([-1.5, 0.0, 0.25, 0.25, 3.0])


def prompt_of(length: int, protect: float = 0.1) -> TokenizedPrompt:
    draw = np.random.default_rng(length)
    return TokenizedPrompt.from_ids(draw.integers(3, 320, length), draw.random(length) < protect)


@pytest.fixture
def pruner_dir(make_model, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    TokenPruner(identify(make_model(6)), [1, 2, 4]).save_pretrained(tmp_path)
    return tmp_path


def fit_of(keep: float, tau: float = 0.1, layers: tuple[int, ...] = (1, 2)) -> Fit:
    return Fit(tuple(PruneStage(layer, keep, tau) for layer in layers), 3, 300, "recall (baseline)")


def schedule_of(keep: float, layers: tuple[int, ...] = (1, 2)) -> PruneSchedule:
    return PruneSchedule(tuple(PruneStage(layer, keep) for layer in layers))


@pytest.mark.parametrize(("selector", "tied"), [("learned", 0), ("key-norm", 0), ("random", 1)])
def test_together_the_prompts_keep_what_top_k_keeps_at_every_stage(make_model, pruner_dir, selector, tied):
    """Random scores are functions of the position, so that three prompts tie and one token may be too many or missing."""
    model, prompts = make_model(6), [prompt_of(n) for n in (150, 300, 80)]
    scorer = make_selector(selector, SelectorContext(SCHEDULE, TokenPruner.from_pretrained(pruner_dir), 1, model))
    fitted = fit_thresholds(model, prompts, SCHEDULE, scorer)
    results = [prefill(model, prompt, fitted, scorer) for prompt in prompts]
    for stage in range(3):
        kept = [result.stages[stage].counts[0] for result in results]
        wanted = [stage_counts(SCHEDULE, prompt.protected)[stage].kept for prompt in prompts]
        assert abs(sum(kept) - sum(wanted)) <= tied
    assert fitted.rule == "threshold"
    assert [(s.after_layer, s.keep) for s in fitted.stages] == [(s.after_layer, s.keep) for s in SCHEDULE.stages]


def test_the_scores_of_forced_tokens_decide_nothing(make_model):
    """Whatever they score, thresholds stay; they count among what is kept."""

    class Loud:
        def __init__(self, forced_score: float) -> None:
            self.forced = torch.from_numpy(prompt_of(200).protected)
            self.score_of_forced = forced_score

        def score(self, hidden, positions, stage_index, lengths):
            scores = RandomSelector().score(hidden, positions, stage_index, lengths)
            return scores.masked_fill(self.forced[positions], self.score_of_forced)

    quiet, loud = (fit_thresholds(make_model(6), [prompt_of(200)], SCHEDULE, Loud(s)) for s in (-100.0, 100.0))
    assert quiet == loud


def test_stages_behind_the_last_droppable_token_let_no_other_pass(make_model):
    schedule = PruneSchedule((PruneStage(0, 0.1), PruneStage(1, 0.1)))
    fitted = fit_thresholds(make_model(6), [prompt_of(100)], schedule, RandomSelector())
    assert fitted.stages[1].tau == pytest.approx(3.4e38, rel=0.01)
    forced = prefill(make_model(6), prompt_of(300), fitted, RandomSelector()).stages[1].positions[0].tolist()
    assert set(forced) == {*np.flatnonzero(prompt_of(300).protected), *range(4), *range(284, 300)}


def test_prompts_that_are_forced_as_a_whole_are_refused(make_model):
    with pytest.raises(ValueError, match=r"no token of these 2 prompts.*longer prompts"):
        fit_thresholds(make_model(6), [prompt_of(20), prompt_of(10)], SCHEDULE, RandomSelector())


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_prompt_and_stage_is_reported(make_model, pruner_dir, selector):
    seen: list[int] = []
    scorer = make_selector(selector, SelectorContext(SCHEDULE, TokenPruner.from_pretrained(pruner_dir), 1, make_model(6)))
    fit_thresholds(make_model(6), [prompt_of(90), prompt_of(60)], SCHEDULE, scorer, lambda: seen.append(1))
    assert len(seen) == 6


@given(st.lists(TIED, min_size=1, max_size=30), st.integers(-2, 32))
def test_a_threshold_leaves_the_nearest_count_that_ties_allow(scores, count):
    tau = threshold_of(np.array(scores, np.float32), count)
    possible = {sum(score > bound for score in scores) for bound in (*scores, min(scores) - 1)}
    assert tau not in scores
    assert abs(sum(score > tau for score in scores) - count) == min(abs(n - count) for n in possible)


def test_nan_is_no_score():
    assert threshold_of(np.array([np.nan, 1.0, np.nan, 2.0], np.float32), 1) == 1.5


def test_fits_are_read_back_and_replaced_one_by_one(pruner_dir):
    add_fits(pruner_dir, [fit_of(0.7), fit_of(0.5), fit_of(0.7, layers=(1, 4))])
    add_fits(pruner_dir, [fit_of(0.7, tau=0.9)])
    saved = read_calibration(pruner_dir)
    assert len(saved.fits) == 3
    assert saved.taus(schedule_of(0.7)) == (0.9, 0.9)
    assert saved.taus(schedule_of(0.5)) == saved.taus(schedule_of(0.7, (1, 4))) == (0.1, 0.1)
    assert (saved.fits[0].prompts, saved.fits[0].tokens, saved.fits[0].data) == (3, 300, "recall (baseline)")
    assert not list(pruner_dir.glob("*.partial"))


def test_what_was_not_fitted_names_the_command(pruner_dir):
    saved = add_fits(pruner_dir, [fit_of(0.7)])
    with pytest.raises(ValueError, match=r"keep 0.5 after layers \[1, 4\] .*keep 0.7 after.*calibrate --keeps 0.5 --stages 1\+4`"):
        saved.taus(schedule_of(0.5, (1, 4)))


def test_the_pruner_does_not_need_its_calibration(pruner_dir):
    without = TokenPruner.from_pretrained(pruner_dir).state_dict()
    add_fits(pruner_dir, [fit_of(0.7)])
    assert all(torch.equal(without[name], value) for name, value in TokenPruner.from_pretrained(pruner_dir).state_dict().items())


def test_a_missing_a_foreign_and_a_stale_file_say_what_to_do(make_model, pruner_dir):
    with pytest.raises(ValueError, match=r"no calibration\.json.*erecap calibrate"):
        read_calibration(pruner_dir)
    add_fits(pruner_dir, [fit_of(0.7)])
    path = pruner_dir / "calibration.json"
    text = path.read_text()
    write_json_object(path, {**read_json_object(path, ""), "format_version": 99})
    for use in (read_calibration, lambda directory: add_fits(directory, [fit_of(0.5)])):
        with pytest.raises(ValueError, match="format version 99"):
            use(pruner_dir)
    path.write_text(text)
    TokenPruner(identify(make_model(6)), [1, 2, 4]).save_pretrained(pruner_dir)
    with pytest.raises(ValueError, match=r"another pruner.*again with `erecap calibrate`"):
        read_calibration(pruner_dir)
    assert add_fits(pruner_dir, [fit_of(0.5)]).fits == (fit_of(0.5),)
