"""The lookup heads: what followed a name is found again before anything was learned."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from erecap.training.config import PlannerShape, planner_config
from erecap.training.initialization import LookupInit, initialize_lookup


def model(seed: int = 0, **changes: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = planner_config(64, PlannerShape(**{"num_layers": 4, **changes}))
    return Qwen2ForCausalLM._from_config(config, attn_implementation="eager").eval()


def attention_on_the_place(tested: Qwen2ForCausalLM, pairs: int = 100, trials: int = 10) -> float:
    """What a lookup head of the second layer gives to the place of a name that is said again; a mean over trials."""
    generator, found = torch.Generator().manual_seed(1), 0.0
    for _ in range(trials):
        names = torch.cat((torch.randperm(30, generator=generator), torch.randint(30, 40, (pairs - 30,), generator=generator)))
        listed = torch.stack((names, torch.randint(40, 60, (pairs,), generator=generator), torch.full((pairs,), 61)), 1).flatten()
        asked = int(torch.randint(30, (1,), generator=generator))
        with torch.no_grad():
            output = tested(torch.cat((listed, names[asked : asked + 1]))[None], output_attentions=True)
        found += float(output.attentions[1][0, 0, -1, 3 * asked + 1])
    return found / trials


def test_a_name_finds_its_place_before_any_training():
    prepared = model()
    initialize_lookup(prepared)
    assert attention_on_the_place(prepared) > 0.5
    assert attention_on_the_place(model()) < 0.05


def test_heads_of_the_first_layer_look_back():
    prepared = model()
    initialize_lookup(prepared)
    ids = torch.randint(0, 60, (1, 40), generator=torch.Generator().manual_seed(3))
    attentions = prepared(ids, output_attentions=True).attentions[0][0]
    for head, offset in enumerate(LookupInit().offsets):
        assert attentions[head].diagonal(-offset)[5:].mean() > 0.9


def test_the_same_seed_gives_the_same_weights():
    first, second = model(), model()
    initialize_lookup(first)
    initialize_lookup(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_every_weight_still_gets_a_gradient():
    prepared = model().train()
    initialize_lookup(prepared)
    ids = torch.randint(0, 60, (2, 40), generator=torch.Generator().manual_seed(0))
    prepared(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prepared.parameters())


@pytest.mark.parametrize("changes", [{"num_kv_heads": 2}, {"num_heads": 2}, {"hidden_size": 64}])
def test_shapes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match="the lookup heads need 1 KV head"):
        initialize_lookup(model(**changes))


def test_too_few_layers_are_refused():
    with pytest.raises(ValueError, match="10 layers"):
        initialize_lookup(model(), LookupInit(match_layers=(1, 9)))
