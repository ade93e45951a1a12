"""The contract of selectors, over the registry, and what each one means."""

import copy

import pytest
import torch
from torch.nn import functional

from erecap.models.identity import ModelIdentity
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, PreparedSelector, RandomSelector, Selector, SelectorContext, make_selector

HIDDEN = 64
SCHEDULE = PruneSchedule((PruneStage(1, 0.5), PruneStage(3, 0.5)))
PROMPTS = torch.randint(3, 320, (3, 100), generator=torch.Generator().manual_seed(2))
PROMPT_LENGTHS = [100, 99, 60]


def pruner(stages=(1, 3)) -> TokenPruner:
    torch.manual_seed(0)
    return TokenPruner(ModelIdentity("tiny", "0", 6, HIDDEN), stages).requires_grad_(False)


def selector_of(name: str, make_model) -> Selector:
    return make_selector(name, SelectorContext(SCHEDULE, pruner(), seed=5, model=make_model(6)))


@pytest.fixture(params=SELECTORS)
def selector(request, make_model):
    return selector_of(request.param, make_model)


def batch(rows: int = 3, length: int = 50):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(rows, length, HIDDEN, generator=draw), torch.arange(length).expand(rows, length) * 2


def all_of(hidden: torch.Tensor) -> torch.Tensor:
    return torch.full((len(hidden),), hidden.shape[1])


def score(selector: Selector, hidden, positions, stage, lengths, rows=slice(None)) -> torch.Tensor:
    """As prefill scores ``rows``: a selector that must see the prompts sees them first."""
    if isinstance(selector, PreparedSelector):
        selector.prepare(PROMPTS[rows], PROMPT_LENGTHS[rows])
    return selector.score(hidden, positions, stage, lengths)


@pytest.mark.parametrize("stage", [0, 1])
def test_scores_are_one_float32_per_token(selector, stage):
    hidden, positions = batch()
    scores = score(selector, hidden, positions, stage, all_of(hidden))
    assert (scores.shape, scores.dtype) == ((3, 50), torch.float32)
    assert scores.isfinite().all()


def test_scores_are_deterministic(selector):
    hidden, positions = batch()
    first, again = (score(selector, hidden, positions, 0, all_of(hidden)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("length", [1, 5, 16, 33, 50])
def test_a_score_depends_on_neither_padding_nor_other_rows(selector, length):
    hidden, positions = batch()
    whole = score(selector, hidden, positions, 1, torch.tensor([50, length, 20]))
    alone = score(selector, hidden[1:2, :length], positions[1:2, :length], 1, torch.tensor([length]), slice(1, 2))
    torch.testing.assert_close(whole[1:2, :length], alone)


@pytest.mark.parametrize("name", sorted({*SELECTORS} - {"attention", "learned-steps"}))
def test_only_these_two_look_at_other_tokens(name, make_model):
    selector, (hidden, positions) = selector_of(name, make_model), batch()
    whole = score(selector, hidden, positions, 1, all_of(hidden))
    part = score(selector, hidden[1:2, ::3], positions[1:2, ::3], 1, torch.tensor([17]), slice(1, 2))
    torch.testing.assert_close(part, whole[1:2, ::3])


def test_attention_is_what_the_next_layer_s_queries_give(make_model):
    model = make_model(6)
    hidden, positions = batch(1)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    module = eager.model.layers[2]
    causal = torch.full((50, 50), -torch.inf).triu(1)[None, None]
    _, attention = module.self_attn(module.input_layernorm(hidden), eager.model.rotary_emb(hidden, positions), causal)
    wanted = functional.max_pool1d(attention[:, :, -16:].sum((1, 2))[:, None], 7, 1, 3)[:, 0]
    torch.testing.assert_close(selector_of("attention", make_model).score(hidden, positions, 0, torch.tensor([50])), wanted)


def test_key_norms_are_those_of_the_next_layer(make_model):
    hidden, positions = batch(1)
    module = make_model(6).model.layers[4]
    keys = module.self_attn.k_proj(module.input_layernorm(hidden))
    scores = selector_of("key-norm", make_model).score(hidden, positions, 1, torch.tensor([50]))
    torch.testing.assert_close(scores, -keys.norm(dim=-1))


@pytest.mark.parametrize("name", ["attention", "key-norm", "gradient"])
def test_selectors_that_read_the_model_refuse_to_do_without(name):
    with pytest.raises(ValueError, match="got no model"):
        make_selector(name, SelectorContext(SCHEDULE))


def test_unknown_selector_names_the_known():
    with pytest.raises(ValueError, match="learned, learned-steps, random, recency, key-norm, attention"):
        make_selector("magic", SelectorContext(SCHEDULE))


def test_random_is_uniform_and_differs_by_seed_and_stage():
    hidden, positions = batch(1, 20_000)
    scores = RandomSelector(0).score(hidden, positions, 0, all_of(hidden))
    assert 0.0 <= scores.min() < 0.01 < 0.99 < scores.max() < 1.0
    assert scores.mean() == pytest.approx(0.5, abs=0.01)
    for other in (RandomSelector(seed).score(hidden, positions, stage, all_of(hidden)) for seed, stage in ((1, 0), (0, 1))):
        assert torch.corrcoef(torch.cat([scores, other]))[0, 1].abs() < 0.03


def test_learned_uses_the_scorer_of_the_stages_layer():
    trained, (hidden, positions) = pruner((0, 1, 3)), batch()
    selector = make_selector("learned", SelectorContext(SCHEDULE, trained))
    assert torch.equal(selector.score(hidden, positions, 1, all_of(hidden)), trained(hidden, 2))


def test_learned_refuses_a_missing_pruner_and_missing_stages():
    with pytest.raises(ValueError, match="needs a pruner"):
        make_selector("learned", SelectorContext(SCHEDULE))
    with pytest.raises(ValueError, match=r"prunes after layers \[3\].*stages after layers \[1\]"):
        make_selector("learned", SelectorContext(SCHEDULE, pruner((1,))))


def test_learned_steps_gives_a_message_one_score_the_mean_of_its_tokens():
    context = SelectorContext(SCHEDULE, pruner())
    steps, learned = (make_selector(name, context) for name in ("learned-steps", "learned"))
    hidden, _ = batch(1, 12)
    ids = torch.tensor([[7, 1, 2, 3, 7, 4, 5, 7, 6, 7, 8, 9]])
    assert isinstance(steps, PreparedSelector)
    steps.prepare(ids, [12])
    positions = torch.tensor([[0, 1, 3, 4, 6, 7, 8, 9, 10, 11, 0, 0]])
    found, single = (s.score(hidden, positions, 1, torch.tensor([10]))[0] for s in (steps, learned))
    for message in (slice(0, 3), slice(3, 5), slice(5, 7), slice(7, 10)):
        torch.testing.assert_close(found[message], single[message].mean().expand_as(found[message]))


def test_learned_steps_wants_to_see_the_prompts_first():
    hidden, positions = batch()
    with pytest.raises(ValueError, match="call prepare"):
        make_selector("learned-steps", SelectorContext(SCHEDULE, pruner())).score(hidden, positions, 0, all_of(hidden))
