"""Attention of few new tokens with the heads of a group as rows, against torch's attention head by head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from erecap.models import grouped_attention as module
from erecap.models.grouped_attention import grouped_attention, heads_grouped
from erecap.models.masks import attention_mask, causal, extension_mask


def attend(batch: int, kv_heads: int, group: int, new: int, keys: int, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(batch * 1000 + keys)
    query = torch.randn(batch, kv_heads * group, new, 16)
    room = torch.randn(2, batch, kv_heads, keys + 5, 16)
    key, value = room[0, :, :, :keys], room[1, :, :, :keys]
    mask = causal(new, keys, query.device) if masked or new > 1 else None
    expected = scaled_dot_product_attention(
        query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), attn_mask=mask, scale=0.3
    )
    found, weights = grouped_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    assert weights is None
    return found, expected.transpose(1, 2)


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(6, 40), st.booleans())
def test_it_equals_attention_head_by_head(batch: int, kv_heads: int, group: int, new: int, keys: int, masked: bool) -> None:
    found, expected = attend(batch, kv_heads, group, new, keys, masked)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keys", [16, 17, 23, 64])
@pytest.mark.parametrize(("batch", "kv_heads"), [(1, 1), (1, 2), (2, 1)])
def test_keys_cut_into_parts_give_the_same(keys: int, batch: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_PER_PART", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    found, expected = attend(batch, kv_heads, 3, 1, keys, masked=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_parts_are_as_many_as_threads_that_have_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert module._parts(torch.empty(1, 2, 8192, 4)) == 4
    assert module._parts(torch.empty(1, 2, 2048, 4)) == 2
    assert module._parts(torch.empty(2, 8, 8192, 4)) == 1
    assert module._parts(torch.empty(1, 1, 100, 4)) == 1


def test_a_model_has_its_own_attention_again_after_an_error(make_model) -> None:
    config = make_model(2).config

    def fail() -> None:
        with heads_grouped(config, "sdpa", 1, torch.device("cpu")):
            assert config._attn_implementation != "sdpa"
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("kind", "new", "device"), [("eager", 1, "cpu"), ("sdpa", 17, "cpu"), ("sdpa", 1, "meta")])
def test_it_serves_few_new_tokens_of_sdpa_on_a_cpu(make_model, kind: str, new: int, device: str) -> None:
    config = make_model(2).config
    with heads_grouped(config, kind, new, torch.device(device)):
        assert config._attn_implementation == "sdpa"


def test_new_tokens_see_all_before_them_under_any_attention() -> None:
    hidden = torch.zeros(1, 3, 8)
    visible = extension_mask("sdpa", 5, hidden)
    assert visible is not None
    assert visible[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    added = extension_mask("eager", 5, hidden)
    assert added is not None
    assert torch.equal(added == 0, visible)
    assert extension_mask("flash_attention_2", 5, hidden) is None
    for kind in ("sdpa", "eager"):
        assert extension_mask(kind, 5, hidden[:, :1]) is attention_mask(kind, None, hidden[:, :1]) is None
