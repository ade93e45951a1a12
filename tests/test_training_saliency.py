"""Saliency: the formula, who is credited, padding, memory, dtypes."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from benchmarks.comparison.metrics import rank_correlation
from erecap.engine import differentiable as module
from erecap.engine.differentiable import stage_hidden
from erecap.training.batches import collate
from erecap.training.credits import GradientCredit
from erecap.training.saliency import SaliencySettings, compute_saliency
from erecap.training.sequences import TokenSequence

STAGES = (1, 3)
SETTINGS = SaliencySettings(STAGES)
ModelMaker = Callable[..., Qwen2ForCausalLM]
EpisodeMaker = Callable[..., TokenSequence]


@pytest.fixture
def model(make_model: ModelMaker) -> Qwen2ForCausalLM:
    return make_model(layers=6)


def test_it_is_gradient_times_hidden_of_the_later_plan_s_loss(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    sequence = episode(0, turns=2)
    batch = collate([sequence])
    got = compute_saliency(model, batch, SETTINGS)[:, 0]
    with torch.enable_grad():
        embedded = model.model.embed_tokens(batch.input_ids).requires_grad_()
        out = model(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        plan = torch.from_numpy(np.flatnonzero((sequence.weights == 1) & (sequence.turns == 1)))
        loss = functional.cross_entropy(out.logits[0, plan - 1], batch.input_ids[0, plan])
        hidden = [out.hidden_states[stage + 1] for stage in STAGES]
        wanted = [(g * h).sum(-1).abs()[0] for g, h in zip(torch.autograd.grad(loss, hidden), hidden, strict=True)]
    credited = torch.from_numpy(sequence.turns == 0)
    torch.testing.assert_close(got[:, credited], torch.stack(wanted)[:, credited].detach(), atol=1e-6, rtol=1e-4)
    assert got[:, ~credited].isnan().all()


def test_padding_and_neighbours_change_nothing_and_get_nothing(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    short, long = episode(1, turns=2), episode(2, turns=4)
    both = compute_saliency(model, collate([short, long]), SETTINGS)
    alone = compute_saliency(model, collate([short], [0]), SETTINGS)
    torch.testing.assert_close(both[:, :1, : len(short)], alone, equal_nan=True, atol=1e-6, rtol=1e-4)
    assert both[:, 0, len(short) :].isnan().all()


def test_other_tokens_and_untrained_plans_are_not_targets(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    sequence = episode(3, turns=2)
    weights = np.where(sequence.weights == 1, sequence.weights, np.float32(0.9))
    changed = TokenSequence(sequence.input_ids, weights, sequence.turns)
    first, second = (compute_saliency(model, collate([s]), SETTINGS) for s in (sequence, changed))
    torch.testing.assert_close(first, second, equal_nan=True)


def test_the_model_is_left_as_it_was(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compute_saliency(model, collate([episode(0)]), SETTINGS)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_next_horizon_credits_a_token_by_the_plan_after_its_turn_alone(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    sequence = episode(0, turns=3)
    near, every = (compute_saliency(model, collate([sequence]), SaliencySettings(STAGES, horizon=h))[:, 0] for h in ("next", "all"))
    last, first = torch.from_numpy(sequence.turns == 1), torch.from_numpy(sequence.turns == 0)
    torch.testing.assert_close(near[:, last], every[:, last])  # one plan is left for these either way
    assert not near[:, first].isclose(every[:, first]).all()
    assert (near.isnan() == every.isnan()).all()  # both plans were sampled


def test_some_replan_must_be_sampled(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    with pytest.raises(ValueError, match="replans=0 must be at least 1"):
        compute_saliency(model, collate([episode(0)]), SaliencySettings(STAGES, replans=0))


def test_an_unknown_horizon_is_refused(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    with pytest.raises(ValueError, match="horizon 'soon' is not known: choose from all, next"):
        compute_saliency(model, collate([episode(0)]), SaliencySettings(STAGES, horizon="soon"))


@pytest.mark.parametrize("stages", [(6,), (3, 1), (1, 1), ()])
def test_stages_must_be_layers_in_order(model: Qwen2ForCausalLM, episode: EpisodeMaker, stages: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"at least one layer of 0\.\.5, in rising order"):
        compute_saliency(model, collate([episode(0)]), SaliencySettings(stages))


def test_there_is_none_after_the_last_layer_but_one(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    before, last_but_one, last = compute_saliency(model, collate([episode(0)]), SaliencySettings((3, 4, 5)))[:, 0].nan_to_num()
    assert last_but_one.max() < 1e-4 * before.max()
    assert last.max() == 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_checkpointing_changes_no_value(model: Qwen2ForCausalLM, episode: EpisodeMaker, attention: str):
    batch, other = collate([episode(0), episode(1, turns=2)]), deepcopy(model)
    other.set_attn_implementation(attention)
    chosen = torch.tensor([2, 1])
    with module.frozen(other), torch.enable_grad():
        with_it, without = (GradientCredit(other, batch, STAGES, checkpointing=flag).of(chosen) for flag in (True, False))
    torch.testing.assert_close(with_it, without, atol=0, rtol=1e-5)
    assert with_it.max() > 0


def test_checkpointing_holds_the_streams_of_layers_and_not_what_is_within_them(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    ids, held = collate([episode(0)]).input_ids, {}
    stream_bytes = ids.numel() * model.config.hidden_size * 4
    for flag in (True, False):
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with module.frozen(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = stage_hidden(model, ids, STAGES, checkpointing=flag)
        weights = {p.data_ptr() for p in model.parameters()}
        held[flag] = sum(size for place, size in sizes.items() if place not in weights) / stream_bytes
        del alive
    later_layers = 4
    assert held[True] <= later_layers + 4  # and what the final norm keeps
    assert held[False] > 3 * held[True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_order_of_float32(model: Qwen2ForCausalLM, episode: EpisodeMaker, dtype: torch.dtype):
    batch = collate([episode(0, turns=6)])
    wanted, got = (compute_saliency(deepcopy(model).to(kind), batch, SETTINGS)[:, 0].numpy() for kind in (torch.float32, dtype))
    assert got.dtype == np.float32
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    known = ~np.isnan(wanted[0])
    assert all(rank_correlation(ours[known], theirs[known]) > 0.95 for ours, theirs in zip(got, wanted, strict=True))


def test_small_float16_gradients_do_not_vanish(model: Qwen2ForCausalLM, episode: EpisodeMaker, monkeypatch: pytest.MonkeyPatch):
    faint = deepcopy(model)
    faint.lm_head.weight.data *= 1e-5  # and with it every gradient
    batch = collate([episode(0)])
    wanted, half = compute_saliency(faint, batch, SETTINGS)[:, 0].numpy(), faint.to(torch.float16)
    got = compute_saliency(half, batch, SETTINGS)[:, 0].numpy()
    monkeypatch.setattr(module, "_LOSS_SCALES", {})
    unscaled = compute_saliency(half, batch, SETTINGS)[:, 0].numpy()
    known = ~np.isnan(wanted[0])
    for stage in range(len(STAGES)):
        assert rank_correlation(got[stage][known], wanted[stage][known]) > 0.95
        assert rank_correlation(unscaled[stage][known], wanted[stage][known]) < 0.9


def test_a_float16_gradient_that_overflows_is_scaled_less(
    model: Qwen2ForCausalLM, episode: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
):
    loud = deepcopy(model)
    loud.lm_head.weight.data *= 100
    batch = collate([episode(0)])
    wanted, got = (compute_saliency(deepcopy(loud).to(kind), batch, SETTINGS)[:, 0] for kind in (torch.float32, torch.float16))
    known = ~wanted[0].isnan()
    assert got[:, known].isfinite().all()
    monkeypatch.setattr(module, "_LOSS_SCALES", {torch.float16: (2.0**16,)})
    with pytest.raises(ValueError, match="not finite"):
        compute_saliency(deepcopy(loud).to(torch.float16), batch, SETTINGS)
    assert all(rank_correlation(*(v[s][known].numpy() for v in (got, wanted))) > 0.9 for s in range(len(STAGES)))


def test_what_is_beyond_the_dtype_is_an_error(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    beyond = deepcopy(model)
    beyond.model.layers[2].mlp.down_proj.weight.data *= 1e6
    with pytest.raises(ValueError, match=r"not finite in float16: load the model in bfloat16 or float32"):
        compute_saliency(beyond.to(torch.float16), collate([episode(0)]), SETTINGS)
