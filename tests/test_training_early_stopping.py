"""The best of a run is what is saved, and a run without a better one ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.training.early_stopping import EarlyStopping
from erecap.training.loop import Hooks

LOSSES = st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=20)


@given(LOSSES)
def test_what_was_saved_last_is_the_best(losses):
    saved, seen = [], []
    stopping = EarlyStopping(lambda: saved.append(seen[-1]), None)
    for loss in losses:
        seen.append(loss)
        stopping.see(loss)
    assert saved[-1] == stopping.best == min(losses)
    assert not stopping.stop()


@given(LOSSES, st.integers(1, 5))
def test_it_stops_after_as_many_evaluations_without_a_better_one(losses, patience):
    stopping, best = EarlyStopping(lambda: None, patience), 0
    for index, loss in enumerate(losses):
        best = index if loss < min(losses[:index], default=11) else best
        stopping.see(loss)
        assert stopping.stop() == (index - best >= patience)


def test_a_run_that_goes_on_remembers_its_best_and_does_not_save_it_again():
    saved = []
    stopping = EarlyStopping(lambda: saved.append(1), 2)
    stopping.resume([{"eval": {"loss": 1.0}}, {"step": 5}, {"eval": {"loss": 2.0}}])
    stopping.see(1.5)
    assert not saved
    assert stopping.stop()


def test_the_callers_wish_to_stop_still_counts():
    stopping = EarlyStopping(lambda: None, None)
    hooks = stopping.hooks(Hooks(should_stop=lambda: True), lambda step: {"loss": float(step)})
    assert hooks.on_eval is not None
    assert hooks.on_eval(3) == {"loss": 3.0}
    assert hooks.should_stop is not None
    assert hooks.should_stop()


def test_no_patience_at_all_is_refused():
    with pytest.raises(ValueError, match="patience=0 must be at least 1"):
        EarlyStopping(lambda: None, 0)
