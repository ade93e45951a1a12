"""The oracle: its scores are gradient x hidden state of the stock model, however the prompt comes to it."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

import erecap
from erecap.engine.prefill import prefill
from erecap.models.architecture import ContextLengthError
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import GradientSelector

SCHEDULE = PruneSchedule((PruneStage(1, 0.5), PruneStage(3, 0.5)))


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(3, 320, (1, length), generator=torch.Generator().manual_seed(length))


def stock_answer(model, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=[320], pad_token_id=0)
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :]


def stock_saliency(model, ids: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """From the stock model's own hidden states, float32 ``(n, stages)``."""
    trainable, length = copy.deepcopy(model).requires_grad_(True), ids.shape[1]
    output = trainable(torch.cat([ids, answer[None]], 1), output_hidden_states=True)
    hidden = [output.hidden_states[stage.after_layer + 1] for stage in SCHEDULE.stages]
    gradients = torch.autograd.grad(cross_entropy(output.logits[0, length - 1 : -1], answer), hidden)
    return torch.stack([(g * h).sum(-1)[0, :length].abs() for g, h in zip(gradients, hidden, strict=True)], -1)


def scores_of(selector: GradientSelector, *lengths: int) -> list[torch.Tensor]:
    """A batch's scores at both stages, ``(n, stages)`` by row."""
    ids = torch.nn.utils.rnn.pad_sequence([ids_of(length)[0] for length in lengths], batch_first=True)
    selector.prepare(ids, lengths)
    places, rows = torch.arange(ids.shape[1]).expand(ids.shape), torch.tensor(lengths)
    stages = [selector.score(torch.empty(*ids.shape, 64), places, stage, rows) for stage in range(2)]
    return [row[:length] for row, length in zip(torch.stack(stages, -1), lengths, strict=True)]


@pytest.mark.parametrize("length", [1, 70])
def test_scores_are_gradient_times_hidden_state_of_the_stock_model(make_model, length):
    model, ids = make_model(6), ids_of(length)
    (found,) = scores_of(GradientSelector(model, SCHEDULE), length)
    torch.testing.assert_close(found, stock_saliency(model, ids, stock_answer(model, ids, 24)), atol=1e-6, rtol=1e-3)


def test_the_answer_ends_with_its_end_token(make_model):
    model, ids = make_model(6), ids_of(70)
    answer = stock_answer(model, ids, 24)
    wanted = answer[: answer.tolist().index(answer[3]) + 1]
    (found,) = scores_of(GradientSelector(model, SCHEDULE, frozenset([int(answer[3])])), 70)
    torch.testing.assert_close(found, stock_saliency(model, ids, wanted), atol=1e-6, rtol=1e-3)


def test_rows_of_a_batch_do_not_weigh_on_one_another(make_model):
    selector = GradientSelector(make_model(6), SCHEDULE)
    for row, length in zip(scores_of(selector, 50, 1, 70), (50, 1, 70), strict=True):
        assert torch.equal(row, scores_of(selector, length)[0])


def test_a_batch_is_pruned_as_its_prompts_alone(make_model):
    model, prompts = make_model(6), [TokenizedPrompt.from_ids(ids_of(length)[0].numpy()) for length in (90, 3, 120)]
    selector = GradientSelector(model, SCHEDULE)
    together = prefill(model, prompts, SCHEDULE, selector)
    for row, prompt in enumerate(prompts):
        alone = prefill(model, prompt, SCHEDULE, selector)
        for many, one in zip(together.stages, alone.stages, strict=True):
            assert many.positions[row, : many.counts[row]].tolist() == one.positions[0].tolist()


def test_pruned_generate_keeps_what_the_engine_keeps(make_model):
    model = make_model(6)
    ids, mask = torch.zeros(2, 120, dtype=torch.long), torch.ones(2, 120, dtype=torch.long)
    ids[0], ids[1, 30:], mask[1, :30] = ids_of(120)[0], ids_of(90)[0], 0
    with erecap.pruned(model, None, SCHEDULE, GradientSelector(model, SCHEDULE)) as stats:
        model.generate(ids, attention_mask=mask, max_new_tokens=2, do_sample=False, pad_token_id=0)
    for row, length in enumerate((120, 90)):
        alone = prefill(model, TokenizedPrompt.from_ids(ids_of(length)[0].numpy()), SCHEDULE, GradientSelector(model, SCHEDULE))
        for kept, stage in zip(stats.prefills[0].kept, alone.stages, strict=True):
            assert kept[row].tolist() == (stage.positions[0] + 120 - length).tolist()


def test_weights_that_take_gradients_stay_as_they_were(make_model):
    model = copy.deepcopy(make_model(6)).requires_grad_(True)
    prefill(model, TokenizedPrompt.from_ids(ids_of(90)[0].numpy()), SCHEDULE, GradientSelector(model, SCHEDULE))
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_prompt_that_keeps_all_its_tokens_is_not_looked_at(make_model, monkeypatch):
    selector = GradientSelector(make_model(6), SCHEDULE)
    monkeypatch.setattr(selector, "prepare", lambda ids, lengths: pytest.fail("looked at"))
    prefill(make_model(6), TokenizedPrompt.from_ids(ids_of(20)[0].numpy()), SCHEDULE, selector)


def test_the_answer_is_cut_where_the_model_s_positions_end(make_model):
    model = make_model(6)
    (found,) = scores_of(GradientSelector(model, SCHEDULE), 1020)
    wanted = stock_saliency(model, ids_of(1020), stock_answer(model, ids_of(1020), 4))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)
    with pytest.raises(ContextLengthError, match="1024 tokens and 1 new"):
        scores_of(GradientSelector(model, SCHEDULE), 1024)


def test_prompts_it_has_not_seen_are_refused(make_model):
    model, selector = make_model(6), GradientSelector(make_model(6), SCHEDULE)
    hidden, positions = torch.zeros(2, 5, 64), torch.arange(5).expand(2, 5)
    with pytest.raises(ValueError, match="has seen 0 prompts and is to score 2"):
        selector.score(hidden, positions, 0, torch.tensor([5, 5]))
    with erecap.pruned(model, None, SCHEDULE, selector), pytest.raises(ValueError, match="inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(ids_of(60)))
