"""Tests of causal attention with repeated heads: the numbers of stock attention, forwards and backwards."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from erecap.models.repeated_attention import heads_repeated, repeated_attention


def _gradients(model: Qwen2ForCausalLM, ids: Tensor) -> list[Tensor]:
    model.zero_grad()
    with heads_repeated(model.config, ids.device):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    hidden.square().mean().backward()
    return [hidden.detach(), *(p.grad.clone() for p in model.model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_hidden_states_and_gradients_are_those_of_stock_attention(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(kv_heads)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    config._attn_implementation = "sdpa"
    model, ids = Qwen2ForCausalLM(config).double(), torch.randint(0, 50, (2, 37))
    found = _gradients(model, ids)
    monkeypatch.setattr(f"{__name__}.heads_repeated", lambda config, device: torch.enable_grad())
    for mine, stock in zip(found, _gradients(model, ids), strict=True):
        torch.testing.assert_close(mine, stock)


def test_the_layers_run_it_only_while_the_context_is_open() -> None:
    config = Qwen2Config()
    config._attn_implementation = "sdpa"
    with heads_repeated(config, torch.device("cpu")):
        assert config._attn_implementation == "erecap_repeated"
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("kind", "device"), [("eager", "cpu"), ("sdpa", "cuda")])
def test_it_leaves_other_attention_and_gpus_alone(kind: str, device: str) -> None:
    config = Qwen2Config()
    config._attn_implementation = kind
    with heads_repeated(config, torch.device(device)):
        assert config._attn_implementation == kind


def test_a_mask_is_refused() -> None:
    states = torch.zeros(1, 1, 3, 4)
    with pytest.raises(ValueError, match="takes no mask"):
        repeated_attention(nn.Identity(), states, states, states, torch.ones(1, 1, 3, 3, dtype=torch.bool))
