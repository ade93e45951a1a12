"""Causal attention for passes with gradients: the numbers of stock attention, forwards and backwards, with a bias and without."""

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from erecap.models.causal_attention import attending_causally, attending_fast, causal_attention


def _model(kv_heads: int, attention: str = "sdpa") -> Qwen2ForCausalLM:
    torch.manual_seed(kv_heads)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    config._attn_implementation = attention
    return Qwen2ForCausalLM(config).double()


def _gradients(model: Qwen2ForCausalLM, ids: Tensor, how: AbstractContextManager[object]) -> list[Tensor]:
    model.zero_grad()
    with how:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    hidden.square().mean().backward()
    return [hidden.detach(), *(p.grad.clone() for p in model.model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_and_gradients_are_those_of_stock_attention(kv_heads: int, attention: str) -> None:
    model, ids = _model(kv_heads, attention), torch.randint(0, 50, (2, 37))
    found = _gradients(model, ids, attending_causally(model.config))
    for mine, stock in zip(found, _gradients(model, ids, torch.enable_grad()), strict=True):
        torch.testing.assert_close(mine, stock, atol=1e-6, rtol=1e-5)  # eager attention has its softmax in float32


@pytest.mark.parametrize("head_dim", [5, 8])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_a_bias_per_key_is_one_of_a_full_mask(kv_heads: int, head_dim: int) -> None:
    torch.manual_seed(head_dim)
    shape, inputs = (2, 11), []
    for heads in (4, kv_heads, kv_heads):
        inputs.append(torch.randn(2, heads, 11, head_dim, dtype=torch.float64, requires_grad=True))
    bias = (10 * functional.logsigmoid(torch.randn(shape, dtype=torch.float64))).requires_grad_()
    dense = bias[:, None, None].masked_fill(torch.ones(11, 11, dtype=torch.bool).triu(1), -torch.inf)
    query, key, value = inputs
    expected = functional.scaled_dot_product_attention(query, key, value, dense, scale=0.3, enable_gqa=True).transpose(1, 2)
    found, weights = causal_attention(nn.Identity(), query, key, value, bias[:, None, None], scaling=0.3)
    torch.testing.assert_close(found, expected)
    assert weights is None
    pull = torch.randn_like(found)
    for mine, stock in zip(*(torch.autograd.grad(out, [*inputs, bias], pull) for out in (found, expected)), strict=True):
        torch.testing.assert_close(mine, stock)


@pytest.mark.parametrize("context", ["always", "sdpa on a CPU"])
def test_the_layers_run_it_only_while_the_context_is_open(context: str) -> None:
    config = _model(1).config
    with attending_causally(config) if context == "always" else attending_fast(config, torch.device("cpu")):
        assert config._attn_implementation == "erecap_causal"
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("kind", "device"), [("eager", "cpu"), ("sdpa", "cuda")])
def test_other_attention_and_gpus_are_fast_as_they_are(kind: str, device: str) -> None:
    config = _model(1, kind).config
    with attending_fast(config, torch.device(device)):
        assert config._attn_implementation == kind


def test_a_mask_of_queries_and_keys_is_refused() -> None:
    states = torch.zeros(1, 1, 3, 4)
    with pytest.raises(ValueError, match="takes a bias per key"):
        causal_attention(nn.Identity(), states, states, states, torch.zeros(1, 1, 3, 3))
