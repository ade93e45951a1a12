"""The contract of selectors, over the registry, and what each one means."""

import pytest
import torch

from erecap.identity import ModelIdentity
from erecap.pruner import TokenPruner
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, RandomSelector, SelectorContext, make_selector

HIDDEN = 16
SCHEDULE = PruneSchedule((PruneStage(1, 0.5), PruneStage(3, 0.5)))


def pruner(stages=(1, 3)) -> TokenPruner:
    torch.manual_seed(0)
    return TokenPruner(ModelIdentity("tiny", "0", 6, HIDDEN), stages).requires_grad_(False)


@pytest.fixture(params=SELECTORS)
def selector(request):
    return make_selector(request.param, SelectorContext(SCHEDULE, pruner(), seed=5))


def batch(rows: int = 3, length: int = 50):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(rows, length, HIDDEN, generator=draw), torch.arange(length).expand(rows, length) * 2


@pytest.mark.parametrize("stage", [0, 1])
def test_scores_are_one_float32_per_token(selector, stage):
    scores = selector.score(*batch(), stage)
    assert (scores.shape, scores.dtype) == ((3, 50), torch.float32)
    assert scores.isfinite().all()


def test_scores_are_deterministic(selector):
    assert torch.equal(selector.score(*batch(), 0), selector.score(*batch(), 0))


def test_a_tokens_score_does_not_depend_on_the_others(selector):
    hidden, positions = batch()
    whole = selector.score(hidden, positions, 1)
    part = selector.score(hidden[1:2, ::3], positions[1:2, ::3], 1)
    torch.testing.assert_close(part, whole[1:2, ::3])


def test_unknown_selector_names_the_known():
    with pytest.raises(ValueError, match="learned, random, recency"):
        make_selector("magic", SelectorContext(SCHEDULE))


def test_random_is_uniform_and_differs_by_seed_and_stage():
    hidden, positions = batch(1, 20_000)
    scores = RandomSelector(0).score(hidden, positions, 0)
    assert 0.0 <= scores.min() < 0.01 < 0.99 < scores.max() < 1.0
    assert scores.mean() == pytest.approx(0.5, abs=0.01)
    for other in (RandomSelector(1).score(hidden, positions, 0), RandomSelector(0).score(hidden, positions, 1)):
        assert torch.corrcoef(torch.cat([scores, other]))[0, 1].abs() < 0.03


def test_learned_uses_the_scorer_of_the_stages_layer():
    trained, (hidden, positions) = pruner((0, 1, 3)), batch()
    selector = make_selector("learned", SelectorContext(SCHEDULE, trained))
    assert torch.equal(selector.score(hidden, positions, 1), trained.scorers[2](hidden))


def test_learned_refuses_a_missing_pruner_and_missing_stages():
    with pytest.raises(ValueError, match="needs a pruner"):
        make_selector("learned", SelectorContext(SCHEDULE))
    with pytest.raises(ValueError, match=r"prunes after layers \[3\].*stages after layers \[1\]"):
        make_selector("learned", SelectorContext(SCHEDULE, pruner((1,))))
