"""Training steps as CUDA graphs."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch

from erecap.profiling.shapes import make_random_model, shape_config
from erecap.training.batches import Batches
from erecap.training.config import TrainConfig
from erecap.training.graph_steps import GraphSteps
from erecap.training.loss import LossParts
from erecap.training.sequences import SequenceList, TokenSequence
from erecap.training.train_planner import batch_loss, fixed_loss, train_planner

pytestmark = pytest.mark.gpu
SIZES = (64, 128)


def batches(count=24):
    """Random tokens, every third row with branches."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        length = int(rng.integers(30, 60))
        weights = rng.choice(np.array([0.3, 1.0], np.float32), length)
        row = TokenSequence(rng.integers(3, 1000, length).astype(np.int32), weights, np.zeros(length, np.int32))
        rows.append(row.branch(20, [3, 4, 5]).branch(10, [6, 7]) if number % 3 == 0 else row)
    return Batches(SequenceList(rows), 256, sizes=SIZES)


def model_in_training(device):
    torch.manual_seed(0)
    return make_random_model(shape_config("nano"), device, torch.float32, "sdpa").train().requires_grad_(True)


def test_a_graph_computes_the_losses_and_gradients_of_the_step(cuda):
    model, other, stream = model_in_training(cuda), model_in_training(cuda), batches()
    graphs = GraphSteps(other, partial(fixed_loss, other, precision="bfloat16"), stream.token_budget)
    for _ in range(12):
        batch = stream.next().to(cuda)
        expected = batch_loss(model, batch, "bfloat16")
        model.zero_grad()
        expected.loss.backward()
        found = graphs(batch)
        for field in fields(LossParts):
            assert getattr(found, field.name).item() == pytest.approx(getattr(expected, field.name).item(), rel=2e-2, abs=2)
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=5e-3)
        mine = torch.cat([p.grad.flatten() for p in model.parameters()])
        its = torch.cat([p.grad.flatten() for p in other.parameters()])
        assert (its - mine).norm() / mine.norm() < 5e-2


def test_a_run_with_graphs_learns_as_one_without(cuda, tmp_path):
    def losses(name, **changes):
        stream, config = batches(), TrainConfig(steps=30, lr=1e-3, log_every=10, precision="bfloat16")
        for key, value in changes.items():
            setattr(stream, key, value)
        return [record["loss"] for record in train_planner(model_in_training(cuda), stream, config, tmp_path / name)]

    with_graphs, without = losses("graphs"), losses("without", sizes=())
    assert with_graphs == pytest.approx(without, rel=5e-2)
    assert with_graphs[-1] < with_graphs[0]


def test_a_step_that_no_graph_can_hold_is_run_without(cuda, tmp_path, monkeypatch):
    def refuse(self, batch):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphSteps, "__call__", refuse)
    config = TrainConfig(steps=4, log_every=2, precision="bfloat16")
    with pytest.warns(UserWarning, match="no CUDA graph"):
        records = train_planner(model_in_training(cuda), batches(), config, tmp_path)
    assert all(np.isfinite(record["loss"]) for record in records)
