"""Training the planner: the loss, a tiny run, resume."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from erecap.training.batches import Batch, Batches, collate, length_curriculum
from erecap.training.config import PlannerShape, TrainConfig, planner_config
from erecap.training.graph_steps import fit
from erecap.training.loop import Hooks, MetricSums, training_mode
from erecap.training.loss import LossParts
from erecap.training.sequences import SequenceList, TokenSequence
from erecap.training.train_planner import batch_loss, fixed_loss, train_planner


def tiny_model(seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        planner_config(16, PlannerShape(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, head_dim=16))
    )


def copy_task(count: int, seed: int = 0) -> SequenceList:
    """A marker, some tokens, a marker, then the token after the first marker over and over: learnt by attention alone."""
    rng, sequences = np.random.default_rng(seed), []
    for _ in range(count):
        n = int(rng.integers(4, 12))
        key = int(rng.integers(3, 16))
        ids = np.array([1, *[key] * n, 2, *[key] * n], np.int32)
        weights = np.array([0.3] * (n + 2) + [1.0] * n, np.float32)
        sequences.append(TokenSequence(ids, weights, np.zeros(len(ids), np.int32)))
    return SequenceList(sequences)


@torch.no_grad()
def evaluate(model: PreTrainedModel, sequences: SequenceList, precision: str) -> dict[str, float]:
    """plan_loss, plan_accuracy and other_loss over every sequence once."""
    sums = MetricSums()
    with training_mode(model, False):
        for batch in Batches(sequences, 8192).once():
            sums.add(batch_loss(model, batch, precision).metrics())
    return sums.means()


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"steps": 12, "lr": 3e-3, "precision": "float32", "log_every": 5, **changes})  # type: ignore[arg-type]


def test_the_initialisation_is_one_over_root_width():
    model = tiny_model()
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_loss_is_the_weighted_mean_of_the_stock_model_s():
    model, batch = tiny_model(), collate([copy_task(1)[0]])
    parts = batch_loss(model, batch, "float32")
    logits = model(batch.input_ids).logits[0, :-1]
    losses, weights = functional.cross_entropy(logits, batch.input_ids[0, 1:], reduction="none"), batch.weights[0, 1:]
    plan = weights == 1
    assert parts.loss.item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-5)
    assert parts.plan_loss.item() == pytest.approx(losses[plan].sum().item(), rel=1e-5)
    assert parts.other_loss.item() == pytest.approx(losses[~plan].sum().item(), rel=1e-5)
    assert parts.plan_correct.item() == (logits.argmax(-1) == batch.input_ids[0, 1:])[plan].sum().item()


def test_other_tokens_can_weigh_less_than_the_data_say():
    batch = collate([copy_task(1)[0], copy_task(1)[0].cut(9)])
    weighed = batch.weighing_others(0.05)
    plan, padding = batch.weights == 1, batch.weights == 0
    assert padding.any()
    assert torch.equal(weighed.weights == 1, plan)
    assert torch.equal(weighed.weights == 0, padding)
    assert weighed.weights[~plan & ~padding].tolist() == pytest.approx([0.05] * int((~plan & ~padding).sum()))
    for weight in (0.0, 1.0):
        with pytest.raises(ValueError, match="other_weight"):
            config(other_weight=weight)


def test_a_run_trains_with_its_weight_of_other_tokens(tmp_path: Path):
    def losses(name: str, weight: float | None) -> list[float]:
        run = config(steps=5, log_every=1, other_weight=weight)
        return [record["loss"] for record in train_planner(tiny_model(), Batches(copy_task(20), 64), run, tmp_path / name)]

    as_in_the_data, less = losses("data", None), losses("less", 0.01)
    assert as_in_the_data[0] != less[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_branch_is_learned_as_if_the_episode_had_gone_that_way(attention: str):
    """Its loss is that of a sequence of its own, whatever follows in the episode, and beside rows of other lengths."""
    model, (first, second) = tiny_model(), copy_task(2)[:2]
    model.set_attn_implementation(attention)
    labels = {8: [3, 4, 5], 5: [6, 7]}
    branched, nothing = first, np.zeros(len(first), np.float32)
    for at, label in labels.items():
        branched = branched.branch(at, label)
    rest = replace(branched, weights=np.concatenate([nothing, branched.weights[len(first) :]]))
    found = batch_loss(model, collate([second, rest, replace(second, weights=second.weights * 0)]), "float32")
    alone = batch_loss(model, collate([second]), "float32")
    expected, count = alone.plan_loss.item(), int(alone.plan_tokens)
    for at, label in labels.items():
        ids = np.array([*first.input_ids[:at], *label], np.int32)
        own = TokenSequence(ids, np.array([0.0] * at + [1.0] * len(label), np.float32), np.zeros(len(ids), np.int32))
        expected += batch_loss(model, collate([own]), "float32").plan_loss.item()
        count += len(label)
    assert found.plan_loss.item() == pytest.approx(expected, rel=1e-4)
    assert int(found.plan_tokens) == count


def branched_batch(sizes: tuple[int, ...] = ()) -> Batch:
    """Three rows, two of them with branches."""
    first, second, third = copy_task(3)[:3]
    rows = [first.branch(8, [3, 4, 5]).branch(5, [6, 7]), second, third.branch(4, [9])]
    return next(Batches(SequenceList(rows), 256, sizes=sizes).once())


@pytest.mark.parametrize("branched", [True, False])
def test_the_loss_in_fixed_shapes_is_that_of_the_batch(branched: bool):
    batch = branched_batch() if branched else collate(copy_task(3)[:3])
    fitted, begin = fit(branched_batch((64,)) if branched else collate(copy_task(3)[:3], length=64), 256)
    assert fitted.input_ids.shape == (4, 64)
    model, other = tiny_model(), tiny_model()
    one, same = batch_loss(model, batch, "float32"), fixed_loss(other, fitted, begin, "float32")
    for field in fields(LossParts):
        assert getattr(same, field.name).item() == pytest.approx(getattr(one, field.name).item(), rel=1e-5)
    one.loss.backward()
    same.loss.backward()
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(its.grad, mine.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_in_fixed_shapes_reads_no_number_back():
    """Else no CUDA graph can hold it. Fake tensors have shapes, and no numbers."""
    fitted, begin = fit(branched_batch((64,)), 256)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model = tiny_model()
        batch = replace(fitted, **{name: fake.from_tensor(getattr(fitted, name)) for name in ("input_ids", "weights", "forks")})
        fixed_loss(model, batch, begin, "float32").loss.backward()
        with pytest.raises(DynamicOutputShapeException):
            batch_loss(model, batch, "float32")


def test_batches_are_padded_to_few_lengths():
    batches = Batches(copy_task(40), 64, sizes=(12, 20))
    shapes = {tuple(batch.input_ids.shape) for batch in batches.once()}
    assert {length for _, length in shapes} <= {12, 20, 40}
    assert all(rows * length <= 64 for rows, length in shapes)
    assert {fit(batch, 64)[0].input_ids.shape[0] for batch in batches.once() if batch.input_ids.shape[1] == 12} <= {64 // 12}


def test_a_branch_changes_nothing_in_the_episode():
    model, sequence = tiny_model(), copy_task(1)[0]
    branched = sequence.branch(6, [3, 4])
    branched = replace(branched, weights=np.concatenate([sequence.weights, np.zeros(3, np.float32)]))
    plain, found = (batch_loss(model, collate([one]), "float32").loss for one in (sequence, branched))
    assert found.item() == pytest.approx(plain.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (plain, found)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_padding_changes_neither_loss_nor_gradient():
    def gradient(pad: int) -> tuple[float, torch.Tensor]:
        model, data = tiny_model(), copy_task(3)
        batch = collate([data[0], data[1]])
        fill = {"input_ids": 5, "weights": 0.0, "turns": -1}
        wide = {name: functional.pad(getattr(batch, name), (0, pad), value=value) for name, value in fill.items()}
        loss = batch_loss(model, replace(batch, **wide), "float32").loss
        loss.backward()
        return loss.item(), model.model.layers[0].mlp.up_proj.weight.grad

    (loss, grad), (padded_loss, padded_grad) = gradient(0), gradient(9)
    assert padded_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(padded_grad, grad, atol=1e-6, rtol=1e-4)


def test_targets_of_weight_zero_do_not_count():
    model, sequence = tiny_model(), copy_task(1)[0]
    weights = sequence.weights.copy()
    weights[-1] = 0
    changed = sequence.input_ids.copy()
    changed[-1] = 0
    first, second = (collate([TokenSequence(ids, weights, sequence.turns)]) for ids in (sequence.input_ids, changed))
    assert batch_loss(model, first, "float32").loss.item() == batch_loss(model, second, "float32").loss.item()
    with pytest.raises(ValueError, match="no target of nonzero weight"):
        batch_loss(model, collate([TokenSequence(sequence.input_ids, weights * 0, sequence.turns)]))


def test_a_short_run_learns_to_copy_and_is_a_stock_model(tmp_path: Path):
    model, data = tiny_model(), copy_task(200)
    before = evaluate(model, data, precision="float32")
    batches = Batches(data, 256, curriculum=length_curriculum(12, 30))
    log = train_planner(model, batches, config(steps=120), tmp_path)
    after = evaluate(model, data, precision="float32")
    assert after["plan_loss"] < 0.5 * before["plan_loss"]
    assert after["plan_accuracy"] > 0.8
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == log
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(loaded, Qwen2ForCausalLM)
    assert evaluate(loaded, data, precision="float32") == pytest.approx(after)


@pytest.mark.parametrize("stop_after", [4, 7])
def test_a_resumed_run_ends_in_the_state_of_an_uninterrupted_one(tmp_path: Path, stop_after: int):
    data = copy_task(60)
    whole, parted = tiny_model(), tiny_model()
    log = train_planner(whole, Batches(data, 128), config(), tmp_path / "whole")
    asked = iter(range(100))
    train_planner(
        parted, Batches(data, 128), config(), tmp_path / "parted", hooks=Hooks(should_stop=lambda: next(asked) >= stop_after)
    )
    resumed = tiny_model(seed=9)
    resumed_log = train_planner(resumed, Batches(data, 128), config(), tmp_path / "parted")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    timing = {"elapsed_s", "tokens_per_s"}
    assert [{k: v for k, v in r.items() if k not in timing} for r in log] == [
        {k: v for k, v in r.items() if k not in timing} for r in resumed_log
    ]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .* remove it to start the run again"):
        train_planner(tiny_model(), Batches(copy_task(20), 128), config(), tmp_path)


def test_hooks_are_called(tmp_path: Path):
    seen: list[dict[str, object]] = []
    evaluated: list[int] = []

    def on_eval(step: int) -> dict[str, object]:
        evaluated.append(step)
        return {"score": 1.0}

    train_planner(tiny_model(), Batches(copy_task(20), 128), config(eval_every=6), tmp_path, Hooks(seen.append, on_eval))
    assert evaluated == [6, 12]
    assert [r["step"] for r in seen] == [5, 6, 10, 12]
    assert seen[1]["eval"] == {"score": 1.0}


def test_the_learning_rate_rises_holds_and_falls():
    wsd = TrainConfig(steps=100, lr=1.0, warmup=0.1, decay=0.2, floor=0.05)
    assert wsd.learning_rate(0.0) < 0.02
    assert wsd.learning_rate(0.5) == 1.0
    assert wsd.learning_rate(1.0) == pytest.approx(0.05)
    cosine = TrainConfig(steps=100, lr=1.0, schedule="cosine", floor=0.05)
    assert cosine.learning_rate(0.5) == pytest.approx(0.525)
    assert cosine.learning_rate(1.0) == pytest.approx(0.05)


def test_progress_is_the_share_of_the_budget_that_is_ahead():
    both = TrainConfig(steps=100, budget_s=10.0)
    assert math.isclose(both.progress(50, 2.0), 0.5)
    assert math.isclose(both.progress(10, 9.0), 0.9)


@pytest.mark.parametrize(("changes", "message"), [({"steps": None}, "say how long"), ({"lr": 0.0}, "lr=0.0 must be positive")])
def test_bad_configurations_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        config(**changes)
