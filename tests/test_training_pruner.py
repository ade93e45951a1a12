"""Training the pruner: soft masks, the three loss terms, a tiny run."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from erecap.engine.prefill import prefill
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage, stage_counts
from erecap.selectors import LearnedSelector
from erecap.training.batches import Batch, Batches, collate
from erecap.training.config import TrainConfig
from erecap.training.loop import Hooks
from erecap.training.pruner_loss import PrunerLoss, lm_loss, normalised, pruner_losses, saliency_losses
from erecap.training.ratios import Ratios
from erecap.training.saliency import SaliencySettings, collect_saliency, compute_saliency
from erecap.training.saliency_file import SaliencySet
from erecap.training.sequences import SequenceList, TokenSequence
from erecap.training.soft_forward import soft_forward
from erecap.training.softmask import MaskConfig, Replans, SoftMask, draw_replans
from erecap.training.train_pruner import EVAL_DRAWS, PrunerData, PrunerTraining, train_pruner

STAGES = (1, 3)
SETTINGS = SaliencySettings(STAGES)
QUIET = MaskConfig(noise=False)
ModelMaker = Callable[..., Qwen2ForCausalLM]
EpisodeMaker = Callable[..., TokenSequence]


def schedule(keep: float = 0.6) -> PruneSchedule:
    return PruneSchedule(tuple(PruneStage(layer, keep) for layer in STAGES), head=2, tail_min=2)


@pytest.fixture
def model(make_model: ModelMaker) -> Qwen2ForCausalLM:
    return make_model(layers=5)


@pytest.fixture
def pruner(model: Qwen2ForCausalLM) -> TokenPruner:
    torch.manual_seed(0)
    return TokenPruner(identify(model), STAGES)


def last_replans(batch: Batch) -> Replans:
    """The last replan of every row; each row's plan is its last tokens."""
    turns = batch.turns.amax(1)
    plans = (batch.turns == turns[:, None]) & (batch.weights >= 1)
    starts = plans.long().argmax(1)
    plan = (torch.arange(batch.turns.shape[1]) >= starts[:, None]) & (batch.weights >= 1)
    return Replans(replace(batch, weights=plan.float()), starts, turns)


def test_a_replan_is_cut_after_its_plan_and_only_that_plan_is_a_target(episode: EpisodeMaker):
    batch = collate([episode(0), episode(1, turns=2)])
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        replans = draw_replans(batch)
        for row, (prompt, turn) in enumerate(zip(replans.prompts.tolist(), replans.turns.tolist(), strict=True)):
            assert prompt == 8 + turn * 11 + 8
            assert replans.batch.weights[row].nonzero().flatten().tolist() == [prompt, prompt + 1, prompt + 2]
            assert int(replans.batch.lengths[row]) == prompt + 3 <= replans.batch.input_ids.shape[1]
            seen.add((row, turn))
    assert seen == {(0, 1), (0, 2), (0, 3), (1, 1)}


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_the_plan_carried_out_before_is_kept_as_prompts_keep_it(episode: EpisodeMaker, weight: float):
    one, two = episode(0, turns=2), episode(1, turns=4)
    weights = two.weights.copy()
    weights[two.turns < 3] = np.where(two.weights[two.turns < 3] == 1, weight, 0.3)  # plans that are not to imitate count as well
    replans = draw_replans(collate([one, TokenSequence(two.input_ids, weights, two.turns)]))
    mask = SoftMask(replans, PruneSchedule((PruneStage(1, 0.5),), head=1, tail_min=1), QUIET)
    for row, (prompt, turn) in enumerate(zip(replans.prompts.tolist(), replans.turns.tolist(), strict=True)):
        plan = range(prompt - 11, prompt - 8)
        assert mask.prunable[row].nonzero().flatten().tolist() == [i for i in range(8, 8 + 11 * turn) if i not in plan]


def test_an_episode_of_one_replan_has_no_target(episode: EpisodeMaker):
    replans = draw_replans(collate([episode(0, turns=1), episode(1, turns=2)]))
    assert not replans.batch.weights[0].any()
    assert not SoftMask(replans, schedule(), QUIET).prunable[0].any()


def test_a_plan_that_was_asked_for_twice_is_answered_once(episode: EpisodeMaker):
    one = episode(0, turns=2)
    weights, turns = one.weights.copy(), one.turns.copy()
    weights[-10:-8] = 1.0  # an earlier plan of the same turn
    replans = draw_replans(collate([TokenSequence(one.input_ids, weights, turns)]))
    assert replans.batch.weights[0].nonzero().flatten().tolist() == [len(one) - 10, len(one) - 9]


def test_own_turn_protected_head_and_tail_are_never_masked(episode: EpisodeMaker):
    rules = PruneSchedule((PruneStage(1, 0.5),), head=10, tail_min=16)
    mask = SoftMask(last_replans(collate([episode(0), episode(1, turns=2)])), rules, MaskConfig())
    prompt = 8 + 33 + 8
    assert mask.prunable[0].nonzero().flatten().tolist() == list(range(10, prompt - 16))
    mask.apply(torch.randn(mask.alive.shape), 0)
    assert (mask.log_keep[~mask.prunable] == 0).all()


def test_what_may_be_dropped_has_a_log_probability_and_all_else_zero(episode: EpisodeMaker):
    mask = SoftMask(last_replans(collate([episode(0)])), schedule(), MaskConfig())
    mask.apply(torch.randn(mask.alive.shape), 0)
    assert torch.equal(mask.log_keep[0] < 0, mask.prunable[0])


SHRINKING_TAIL = PruneSchedule(tuple(PruneStage(layer, 0.7) for layer in STAGES), tail_min=2, tail_share=0.4)


@pytest.mark.parametrize("rules", [schedule(0.8), SHRINKING_TAIL])
def test_as_many_are_kept_as_the_engine_would_keep(episode: EpisodeMaker, rules: PruneSchedule):
    replans = last_replans(collate([episode(0), episode(1, turns=2)]))
    mask = SoftMask(replans, rules, MaskConfig())
    counts = []
    for row in range(2):
        turns, turn = replans.batch.turns[row, : replans.prompts[row]].numpy(), int(replans.turns[row])
        counts.append(stage_counts(rules, (turns == turn) | (turns < 0)))
    for stage in range(len(rules.stages)):
        mask.apply(torch.randn(mask.alive.shape), stage)
        assert mask.alive.sum(-1).tolist() == [row[stage].kept for row in counts]


def test_verdicts_do_not_depend_on_the_scale_of_scores_and_large_scores_still_learn(episode: EpisodeMaker):
    """Scorers that once scored in thousands would otherwise be certain of every token, noise or not, and never learn again."""
    replans = last_replans(collate([episode(0)]))
    scores, kept = torch.randn(replans.batch.turns.shape), []
    for factor in (1.0, 1e4):
        torch.manual_seed(0)
        scaled = (scores * factor + factor).requires_grad_()
        mask = SoftMask(replans, schedule(), MaskConfig())
        mask.apply(scaled, 0)
        kept.append(mask.log_keep.detach())
        mask.log_keep.sum().backward()
        assert scaled.grad is not None
        assert (scaled.grad[mask.prunable] * factor).abs().mean() > 0.1
    assert torch.allclose(*kept, atol=1e-2)


def test_a_lower_temperature_hides_dropped_tokens_better(episode: EpisodeMaker):
    replans, hidden = last_replans(collate([episode(0)])), []
    scores = torch.randn(replans.batch.turns.shape)
    for temperature in (1.0, 0.5, 0.25):
        mask = SoftMask(replans, schedule(), MaskConfig(temperature=temperature, noise=False))
        mask.apply(scores, 0)
        hidden.append(float(mask.log_keep[mask.prunable & ~mask.alive].mean()))
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[-1] < 2 * hidden[0]


def test_keeping_everything_is_the_unpruned_model(model: Qwen2ForCausalLM, pruner: TokenPruner, episode: EpisodeMaker):
    replans = last_replans(collate([episode(0), episode(1, turns=2)]))
    hidden = soft_forward(model, pruner, replans, schedule(1.0), MaskConfig()).hidden
    wanted = model.model(replans.batch.input_ids, use_cache=False).last_hidden_state
    real = torch.arange(hidden.shape[1]) < replans.batch.lengths[:, None]
    torch.testing.assert_close(hidden[real], wanted[real], atol=1e-4, rtol=1e-4)


def test_hard_verdicts_are_the_engine(model: Qwen2ForCausalLM, pruner: TokenPruner, episode: EpisodeMaker):
    replans, rules = last_replans(collate([episode(0)])), schedule(0.4)
    length, turn = int(replans.prompts[0]), int(replans.turns[0])
    soft = soft_forward(model, pruner, replans, rules, MaskConfig(noise=False, straight_through=True)).hidden
    turns = replans.batch.turns[0, :length].numpy()
    prompt = TokenizedPrompt.from_ids(replans.batch.input_ids[0, :length].numpy(), (turns == turn) | (turns < 0))
    result = prefill(model, prompt, rules, LearnedSelector(pruner, rules))
    torch.testing.assert_close(model.lm_head(soft[0, length - 1]), result.logits[0], atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing(model: Qwen2ForCausalLM, pruner: TokenPruner, episode: EpisodeMaker):
    short, long = episode(0, turns=3), episode(1, turns=5)
    both, alone = last_replans(collate([short, long])), last_replans(collate([short]))
    forward, single = (soft_forward(model, pruner, b, schedule(), QUIET) for b in (both, alone))
    torch.testing.assert_close(forward.hidden[:1, : len(short)], single.hidden, atol=1e-5, rtol=1e-4)
    rows = both.batch
    row = Batch(*(t[:1] for t in (rows.input_ids, rows.weights, rows.turns, rows.lengths)), (0,))
    padded = soft_forward(model, pruner, Replans(row, both.prompts[:1], both.turns[:1]), schedule(), QUIET)
    target = compute_saliency(model, collate([short]), SETTINGS)[:, 0].numpy()
    torch.testing.assert_close(lm_loss(model, padded, row), lm_loss(model, single, alone.batch), atol=1e-5, rtol=1e-5)
    torch.manual_seed(1)
    first = pruner_losses(padded, [target], 2)
    torch.manual_seed(1)
    second = pruner_losses(single, [target], 2)
    torch.testing.assert_close((first.mse, first.rank), (second.mse, second.rank), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("term", ["lm", "mse", "rank"])
@pytest.mark.parametrize("straight_through", [False, True])
def test_each_loss_term_alone_reaches_every_scorer_and_nothing_else(
    model: Qwen2ForCausalLM, pruner: TokenPruner, term: str, straight_through: bool, episode: EpisodeMaker
):
    torch.manual_seed(0)
    batch = collate([episode(0), episode(1)])
    target = compute_saliency(model, batch, SETTINGS).numpy()
    replans = last_replans(batch)
    forward = soft_forward(model, pruner, replans, schedule(0.8), MaskConfig(straight_through=straight_through))
    found = pruner_losses(forward, [target[:, row] for row in range(2)], 4)
    {"lm": lm_loss(model, forward, replans.batch), "mse": found.mse, "rank": found.rank}[term].backward()
    # the last bias shifts all scores alike, which neither a ranking nor a threshold between scores sees
    for name, parameter in pruner.named_parameters():
        if not (name.endswith("out.bias") and term != "mse"):
            assert parameter.grad.abs().max() > 1e-8, name
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("term", ["lm", "mse", "rank"])
def test_each_loss_term_alone_moves_the_pruner(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, term: str, episode: EpisodeMaker
):
    data = SequenceList([episode(n) for n in range(4)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    before = {name: value.clone() for name, value in pruner.state_dict().items()}
    frozen_before = {name: value.clone() for name, value in model.state_dict().items()}
    only = PrunerLoss(**{name: float(name == term) for name in ("lm", "mse", "rank")})
    config = TrainConfig(steps=2, weight_decay=0.0)
    train_pruner(model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(schedule(), config, loss=only), tmp_path)
    assert all(not torch.equal(value, before[name]) for name, value in pruner.state_dict().items() if "weight" in name)
    assert all(torch.equal(value, frozen_before[name]) for name, value in model.state_dict().items())


def test_saliency_is_normalised_in_order_and_without_the_unknown():
    values = torch.tensor([[1e-6, torch.nan, 1.0, 1e3, 1e-2]])
    known = normalised(values)[0, [0, 2, 3, 4]]
    assert known.mean().item() == pytest.approx(0, abs=1e-6)
    assert known.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert known.argsort().tolist() == [0, 3, 1, 2]
    assert normalised(values)[0, 1].isnan()


def test_the_ranking_loss_is_small_for_the_right_order_and_large_for_the_reverse():
    target = torch.linspace(-2, 2, 50)
    right, wrong = (saliency_losses(sign * 10 * target, target, 8).rank.item() for sign in (1, -1))
    assert right < 0.1 < 5 < wrong


def trained(model: Qwen2ForCausalLM, collected: SaliencySet, data: SequenceList, out: Path, stop_after: int = 1000) -> TokenPruner:
    torch.manual_seed(0)
    pruner, asked = TokenPruner(identify(model), STAGES), iter(range(10_000))
    config, hooks = TrainConfig(steps=10, lr=3e-3, log_every=5), Hooks(should_stop=lambda: next(asked) >= stop_after)
    train_pruner(model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(schedule(), config), out, hooks=hooks)
    return pruner


def test_a_resumed_run_ends_in_the_state_of_an_uninterrupted_one(model: Qwen2ForCausalLM, tmp_path: Path, episode: EpisodeMaker):
    data = SequenceList([episode(n) for n in range(6)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    whole = trained(model, collected, data, tmp_path / "whole")
    trained(model, collected, data, tmp_path / "parted", stop_after=4)
    resumed = trained(model, collected, data, tmp_path / "parted")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_sequences_without_a_later_plan_are_left_out_and_counted(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker
):
    data = SequenceList([episode(n, turns=turns) for n, turns in enumerate([1, 4, 1, 4, 1])])
    batches = Batches(data, token_budget=40, only=[0, 1, 2, 3])  # a batch each
    seen: set[int] = set()
    hooks = Hooks(on_step=lambda record: seen.add(record["step"]))
    with pytest.warns(UserWarning, match="left out 3 sequences without a plan after the first turn"):
        log = train_pruner(
            model,
            pruner,
            PrunerData(batches, held_out=(4,)),
            PrunerTraining(schedule(), TrainConfig(steps=6, log_every=1)),
            tmp_path,
            hooks,
        )
    assert seen == set(range(1, 7))
    assert all(record["lm"] > 0 for record in log)
    with pytest.raises(ValueError, match="none of 2 sequences has a plan after the first turn"):
        train_pruner(
            model,
            pruner,
            PrunerData(Batches(data, 40, only=[0, 2])),
            PrunerTraining(schedule(), TrainConfig(steps=1)),
            tmp_path / "none",
        )


@pytest.mark.parametrize("loss", [PrunerLoss(), PrunerLoss(lm=0.0, mse=1.0), PrunerLoss(lm=0.0, rank=1.0)])
def test_a_batch_without_targets_or_saliency_has_a_loss_of_0_with_a_gradient(
    model: Qwen2ForCausalLM, pruner: TokenPruner, episode: EpisodeMaker, loss: PrunerLoss
):
    batch = collate([episode(0, turns=1)])
    replans = draw_replans(batch)
    forward = soft_forward(model, pruner, replans, schedule(), QUIET)
    unknown = np.full((len(STAGES), len(episode(0, turns=1))), np.nan, np.float32)
    found = pruner_losses(forward, [unknown], loss.pairs_per_token)
    total = loss.lm * lm_loss(model, forward, replans.batch) + loss.mse * found.mse + loss.rank * found.rank
    total.backward()
    assert float(total.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in pruner.parameters())


def test_without_a_saliency_there_are_no_terms_of_it(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker
):
    batches, before = Batches(SequenceList([episode(n) for n in range(8)]), 128), copy.deepcopy(pruner.state_dict())
    log = train_pruner(
        model, pruner, PrunerData(batches), PrunerTraining(schedule(), TrainConfig(steps=3, log_every=1)), tmp_path / "lm"
    )
    assert {"mse", "rank", "order"}.isdisjoint(log[0])
    assert all(record["loss"] == record["lm"] for record in log)
    assert any(not torch.equal(value, before[name]) for name, value in pruner.state_dict().items())
    with pytest.raises(ValueError, match=r"mse=0\.0 rank=0\.5 are of terms that compare with a saliency, and there is none"):
        train_pruner(
            model,
            pruner,
            PrunerData(batches),
            PrunerTraining(schedule(), TrainConfig(steps=3), loss=PrunerLoss(rank=0.5)),
            tmp_path / "rank",
        )


def test_a_run_learns_to_rank_logs_its_terms_and_saves_a_pruner(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker
):
    data = SequenceList([episode(n) for n in range(8)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    config = TrainConfig(steps=60, lr=3e-3, log_every=10)
    seed = PrunerLoss(1.0, 1.0, 1.0)
    log = train_pruner(
        model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(schedule(), config, loss=seed), tmp_path
    )
    assert {"lm", "mse", "rank", "loss", "kept_share"} <= log[0].keys()
    assert log[-1]["rank"] < 0.9 * log[0]["rank"]
    assert log[-1]["mse"] < 0.9 * log[0]["mse"]
    loaded = TokenPruner.from_pretrained(tmp_path / "pruner", identify(model))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in pruner.state_dict().items())


def test_parts_that_do_not_fit_are_refused(model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker):
    data = SequenceList([episode(n) for n in range(2)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    config, other = TrainConfig(steps=1), PruneSchedule((PruneStage(2, 0.5),))
    with pytest.raises(ValueError, match=r"stages differ: schedule \(2,\)"):
        train_pruner(model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(other, config), tmp_path)
    with pytest.raises(ValueError, match=r"saliency is of other episodes .* 2 of them.* 1\)"):
        train_pruner(
            model,
            pruner,
            PrunerData(Batches(SequenceList([episode(0)]), 128), collected),
            PrunerTraining(schedule(), config),
            tmp_path,
        )
    train_pruner(model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(schedule(), config), tmp_path)
    with pytest.raises(ValueError, match=r"run of other settings .*schedule"):
        train_pruner(model, pruner, PrunerData(Batches(data, 128), collected), PrunerTraining(schedule(0.5), config), tmp_path)
    with pytest.raises(ValueError, match="not all 0"):
        PrunerLoss(lm=0, mse=0, rank=0)
    with pytest.raises(ValueError, match=r"rule 'top_k', not of 'chunk_top_k'"):
        train_pruner(
            model,
            pruner,
            PrunerData(Batches(data, 128), collected),
            PrunerTraining(schedule().by_rule("chunk_top_k"), config),
            tmp_path,
        )


def test_all_tokens_up_to_the_plans_end_can_be_targets(episode: EpisodeMaker):
    replans = draw_replans(collate([episode(0), episode(1, turns=1)]), "all")
    assert replans.batch.weights[0, : int(replans.batch.lengths[0])].all()
    assert not replans.batch.weights[1].any()


def test_each_batch_draws_its_keep_ratio(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
):
    data, seen = SequenceList([episode(n) for n in range(4)]), []
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")

    def spy(*args: Any) -> Any:
        seen.append({stage.keep for stage in args[3].stages})
        return soft_forward(*args)

    monkeypatch.setattr("erecap.training.train_pruner.soft_forward", spy)
    train_pruner(
        model,
        pruner,
        PrunerData(Batches(data, 128), collected),
        PrunerTraining(schedule(), TrainConfig(steps=6), keeps=Ratios(0.4, 0.8, "keep")),
        tmp_path,
    )
    ratios = [ratio for (ratio,) in seen]
    assert len(set(ratios)) == 6
    assert all(0.4 <= ratio <= 0.8 for ratio in ratios)
    with pytest.raises(ValueError, match="0 < lowest <= highest"):
        Ratios(0.8, 0.4, "keep")


@pytest.mark.parametrize("stages", [2, 8, 29])
def test_ratios_by_final_share_leave_that_share_whatever_the_depth(stages: int):
    ratios = Ratios(0.05, 0.6)
    for place, share in ((0.0, 0.05), (0.5, 0.325), (1.0, 0.6)):
        layers = range(stages)
        left = PruneSchedule.after(layers, ratios.at(place, stages)).shares(stages + 1)[1]
        assert left == pytest.approx(share)
    assert Ratios(0.3, 0.9, "keep").at(0.5, stages) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("text", "message"), [("0.6-0.05", "lowest <= highest"), ("half", "no number and no range"), ("0", "lowest")]
)
def test_ratios_that_are_none_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        Ratios.parse(text, "final")
    assert Ratios.parse("0.3", "keep") == Ratios(0.3, 0.3, "keep")


def test_texts_with_one_answer_are_judged_once(episode: EpisodeMaker):
    data = SequenceList([episode(n, turns=turns) for n, turns in enumerate([4, 2, 2, 3])])
    judged = PrunerData(Batches(data, token_budget=40, only=[0]), held_out=(1, 2, 3)).evaluation()  # a batch each
    assert sorted(batch.indices for batch in judged) == [(1,), (2,), *[(3,)] * EVAL_DRAWS]


def test_shares_of_prunable_tokens_are_those_of_the_layers(model: Qwen2ForCausalLM, pruner: TokenPruner, episode: EpisodeMaker):
    replans = last_replans(collate([episode(0), episode(1, turns=1)]))  # nothing can be dropped from the second
    forward = soft_forward(model, pruner, replans, schedule(0.5), MaskConfig(noise=False, straight_through=True))
    assert forward.shares[:2, 0].tolist() == [1.0, 1.0]
    prunable, alive = forward.mask.prunable[0], forward.mask.alive[0]
    assert float(forward.shares[-1, 0]) == pytest.approx(float((prunable & alive).sum() / prunable.sum()))
    assert [float(n) for n in forward.final_share()] == pytest.approx([float(forward.shares[-1, 0]), 1])
    assert [float(n) for n in forward.kept_share()] == pytest.approx([float(forward.shares[:, 0].mean()), 1])


def test_each_step_and_each_validation_batch_is_told(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker
):
    data, told = SequenceList([episode(n) for n in range(4)]), []
    batches = Batches(data, 128, only=[0, 1, 2])
    settings = PrunerTraining(schedule(), TrainConfig(steps=2, log_every=2, eval_every=2), keeps=Ratios(0.2, 0.8))
    hooks = Hooks(on_work=lambda step, work: told.append((step, work.split(",")[0])))
    train_pruner(model, pruner, PrunerData(batches, held_out=(3,)), settings, tmp_path, hooks)
    assert told[:2] == [(1, "step 1"), (2, "step 2")]
    assert told[2:] == [(2, f"validation: batch {n} of {2 * EVAL_DRAWS}") for n in range(1, 2 * EVAL_DRAWS + 1)]


def test_a_run_with_other_inputs_is_not_continued(model: Qwen2ForCausalLM, tmp_path: Path, episode: EpisodeMaker):
    batches = Batches(SequenceList([episode(n) for n in range(2)]), 128)
    settings = PrunerTraining(schedule(), TrainConfig(steps=1))
    train_pruner(model, TokenPruner(identify(model), STAGES, "raw"), PrunerData(batches), settings, tmp_path)
    with pytest.raises(ValueError, match=r"run of other settings .*inputs"):
        train_pruner(model, TokenPruner(identify(model), STAGES), PrunerData(batches), settings, tmp_path)


def test_the_pruner_of_the_lowest_held_out_loss_is_saved_and_held_out_episodes_are_not_trained_on(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
):
    data = SequenceList([episode(n) for n in range(6)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    states = []
    monkeypatch.setattr(TokenPruner, "save_pretrained", lambda self, _: states.append(copy.deepcopy(self.state_dict())))
    config = TrainConfig(steps=8, lr=0.05, log_every=2, eval_every=2)
    batches = Batches(data, 128, only=[0, 1, 2, 3])
    log = train_pruner(model, pruner, PrunerData(batches, collected, held_out=(4, 5)), PrunerTraining(schedule(), config), tmp_path)
    losses = [record["eval"]["loss"] for record in log]
    assert len(states) == sum(loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses))
    assert {"lm", "mse", "rank", "order", "kept_share"} <= log[0]["eval"].keys()
    assert set(batches.next().indices) <= {0, 1, 2, 3}


def test_evaluation_tells_the_loss_of_each_ratio(
    model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker
):
    data = PrunerData(Batches(SequenceList([episode(0), episode(1)]), token_budget=200, only=[0]), held_out=(1,))
    settings = PrunerTraining(schedule(0.5), TrainConfig(steps=1, log_every=1, eval_every=1), keeps=Ratios(0.2, 0.8, "keep"))
    found = train_pruner(model, pruner, data, settings, tmp_path)[-1]["eval"]
    assert found["lm"] == pytest.approx((found["lm at keep 0.2"] + found["lm at keep 0.5"]) / 2)
    assert found["lm at keep 0.2"] != found["lm at keep 0.5"]


def test_evaluation_is_the_same_at_each_call(model: Qwen2ForCausalLM, pruner: TokenPruner, tmp_path: Path, episode: EpisodeMaker):
    data = SequenceList([episode(n) for n in range(4)])
    collected = collect_saliency(model, data, SETTINGS, tmp_path / "saliency")
    config = TrainConfig(steps=2, lr=1e-12, weight_decay=0.0, log_every=1, eval_every=1)
    log = train_pruner(
        model,
        pruner,
        PrunerData(Batches(data, 128, only=[0, 1]), collected, held_out=(2, 3)),
        PrunerTraining(schedule(), config),
        tmp_path,
    )
    assert log[0]["eval"] == pytest.approx(log[1]["eval"], rel=1e-4)
