"""What plans needed: the contract of credits, over the registry, and what each one means."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from erecap.engine.differentiable import frozen
from erecap.training.batches import collate
from erecap.training.credits import CREDITS, AttentionCredit, RemovalCredit
from erecap.training.saliency import SaliencySettings, compute_saliency
from erecap.training.sequences import NO_REPLAN, TokenSequence

STAGES = (1, 3)
SETTINGS = SaliencySettings(STAGES)
ModelMaker = Callable[..., Qwen2ForCausalLM]
EpisodeMaker = Callable[..., TokenSequence]


@pytest.fixture
def model(make_model: ModelMaker) -> Qwen2ForCausalLM:
    return make_model(layers=6)


@pytest.mark.parametrize("name", CREDITS)
def test_each_older_token_gets_a_finite_credit_that_neighbours_and_padding_do_not_change(model, episode: EpisodeMaker, name):
    short, long = episode(1, turns=2), episode(2, turns=4)
    both = compute_saliency(model, collate([short, long]), SaliencySettings(STAGES, credit=name))
    alone = compute_saliency(model, collate([short], [0]), SaliencySettings(STAGES, credit=name))
    torch.testing.assert_close(both[:, :1, : len(short)], alone, equal_nan=True, atol=1e-5, rtol=1e-3)
    credited = torch.from_numpy(short.turns == 0)
    assert (alone[:, 0, credited] >= 0).all()
    assert alone[:, 0, credited].max() > 0
    assert alone[:, 0, ~credited].isnan().all()


@pytest.mark.parametrize("name", CREDITS)
def test_a_row_without_a_replan_is_no_trouble(model, episode: EpisodeMaker, name):
    batch = collate([episode(1, turns=2), episode(2, turns=1)])
    with frozen(model), torch.enable_grad():
        found = CREDITS[name](model, batch, STAGES).of(torch.tensor([1, NO_REPLAN]))
    assert found.shape == (2, 2, batch.input_ids.shape[1])
    assert found.isfinite().all()


def test_an_unknown_credit_names_the_known(model, episode: EpisodeMaker):
    with pytest.raises(ValueError, match="gradient, attention, removal"):
        compute_saliency(model, collate([episode(1)]), SaliencySettings(STAGES, credit="luck"))


@pytest.mark.parametrize("name", CREDITS)
def test_stages_must_be_layers(model, episode: EpisodeMaker, name):
    with pytest.raises(ValueError, match=r"at least one layer of 0\.\.5"):
        compute_saliency(model, collate([episode(1)]), SaliencySettings((6,), credit=name))


def test_attention_is_what_the_models_own_plan_tokens_pay_after_the_stage(model, episode: EpisodeMaker):
    sequence = episode(0, turns=3)
    batch, eager = collate([sequence]), deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        maps = eager(batch.input_ids, output_attentions=True, use_cache=False).attentions
    plan = torch.from_numpy(((sequence.weights == 1) & (sequence.turns == 2)).nonzero()[0]) - 1
    wanted = [sum(m[0, :, plan].sum((0, 1)) for m in maps[stage + 1 :]) / len(plan) for stage in STAGES]
    found = AttentionCredit(model, batch, STAGES).of(torch.tensor([2]))[:, 0]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_removal_from_the_first_layer_on_is_what_is_lost_without_the_turn(model, episode: EpisodeMaker, seed):
    """After layer 0: the same forward with the turn's keys masked in all later layers, by hand."""
    sequence = episode(seed, turns=4)
    batch, turn = collate([sequence]), 3
    plan = torch.from_numpy(((sequence.weights == 1) & (sequence.turns == turn)).nonzero()[0])
    targets = batch.input_ids[0, plan]
    length = len(sequence)
    plain = torch.ones(length, length, dtype=torch.bool).tril()

    def loss(removed: int | None) -> torch.Tensor:
        masks = [plain] * 6
        if removed is not None:
            gone = torch.from_numpy(sequence.turns == removed)
            masks = [plain, *[plain & ~gone[None] | torch.eye(length, dtype=torch.bool)] * 5]
        hidden = model.model.embed_tokens(batch.input_ids)
        rope = model.model.rotary_emb(hidden, torch.arange(length)[None])
        for layer, mask in zip(model.model.layers, masks, strict=True):
            hidden = layer(hidden, mask[None, None], position_embeddings=rope)
        logits = model.lm_head(model.model.norm(hidden))[0, plan - 1]
        return functional.cross_entropy(logits, targets)

    found = RemovalCredit(model, batch, (0,)).of(torch.tensor([turn]))[0, 0]
    rises = 0
    with torch.no_grad():
        for removed in range(turn):
            rise = (loss(removed) - loss(None)).clamp_min(0)
            rises += int(rise > 0)
            mine = found[torch.from_numpy(sequence.turns == removed)]
            torch.testing.assert_close(mine, rise.expand_as(mine), atol=1e-5, rtol=1e-3)
    assert (found > 0).any() == bool(rises)
