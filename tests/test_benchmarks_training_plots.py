"""What is shown of a training run: its plot, and TensorBoard's scalars."""

from pathlib import Path

import pytest

from benchmarks.recipes.tensorboard import tensorboard_hook
from benchmarks.reports.training_plots import pruner_plot

RECORDS = [
    {"step": 10, "lm": 0.5, "mse": 1.0, "rank": 0.69, "order": 0.5, "lr": 1e-3},
    {
        "step": 20,
        "lm": 0.4,
        "mse": 0.9,
        "rank": 0.6,
        "order": 0.6,
        "lr": 1e-3,
        "eval": {"lm": 0.6, "mse": 1.1, "rank": 0.7, "order": 0.5},
    },
]


@pytest.mark.parametrize("records", [[], [{"step": 10, "lm": 0.5}], RECORDS[:1], RECORDS])
def test_a_plot_is_drawn_of_whatever_was_logged(records):
    assert pruner_plot(records).startswith(b"\x89PNG")


def test_tensorboard_gets_each_number(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write = tensorboard_hook(tmp_path)
    for record in RECORDS:
        write(record)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("mse")] == [(10, 1.0), (20, 0.9)]
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("eval/order")] == [(20, 0.5)]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"erecap\[tensorboard\]"):
        tensorboard_hook(tmp_path)
