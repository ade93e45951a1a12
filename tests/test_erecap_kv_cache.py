"""The cache that appends in place, and the sizes to which rows are padded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from erecap.engine.prefill import prefill
from erecap.models.kv_cache import SPARE_TOKENS, cache_bytes, make_cache, trim
from erecap.models.row_sizes import EVERY_SIZE, RowSizes, row_sizes
from erecap.models.tokenization import TokenizedPrompt


def states(tokens: int, start: int = 0) -> torch.Tensor:
    """Keys or values, ``(2, 3, tokens, 4)``, each token with a number of its own."""
    return torch.arange(start, start + tokens).float()[None, None, :, None].expand(2, 3, -1, 4)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_it_holds_what_a_stock_cache_holds(chunks: list[int]) -> None:
    own, stock, held = make_cache_of_one(), DynamicCache(), 0
    for chunk in chunks:
        new = (states(chunk, held), states(chunk, held) + 0.5)
        for found, expected in zip(own.update(*new, 0), stock.update(*new, 0), strict=True):
            assert torch.equal(found, expected)
        held += chunk
    assert own.get_seq_length(0) == held
    assert cache_bytes(own) == cache_bytes(stock)


def make_cache_of_one() -> DynamicCache:
    from transformers import Qwen2Config

    return make_cache(Qwen2Config(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1))


def test_appending_moves_nothing_while_there_is_room() -> None:
    cache = make_cache_of_one()
    before = cache.update(states(10), states(10), 0)[0].data_ptr()
    for token in range(SPARE_TOKENS):
        assert cache.update(states(1, token), states(1, token), 0)[0].data_ptr() == before
    assert cache.update(states(1), states(1), 0)[0].data_ptr() != before


def test_what_was_trimmed_is_written_over() -> None:
    cache = make_cache_of_one()
    cache.update(states(10), states(10), 0)
    trim(cache, 0, 6)
    keys, values = cache.update(states(2, 50), states(2, 60), 0)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 50, 51]
    assert values[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 60, 61]


def test_rows_that_stay_close_up_within_their_buffer_and_go_on_growing_there() -> None:
    cache = make_cache_of_one()
    rows = torch.arange(4.0)[:, None, None, None].expand(4, 3, 10, 4)
    place = cache.update(rows, rows + 10, 0)[0].data_ptr()
    cache.layers[0].keep_rows([3, 1])
    for token in range(SPARE_TOKENS + 1):
        new = torch.full((2, 3, 1, 4), 5.0)
        keys, values = cache.update(new, new, 0)
        assert keys.data_ptr() == place or token == SPARE_TOKENS
        assert keys[:, 0, [0, 9, -1], 0].tolist() == [[3, 3, 5], [1, 1, 5]]
        assert values[:, 0, [0, 9, -1], 0].tolist() == [[13, 13, 5], [11, 11, 5]]


def test_kept_tokens_close_up_within_their_buffer() -> None:
    cache = make_cache_of_one()
    place = cache.update(states(10), states(10, 50), 0)[0].data_ptr()
    layer = cache.layers[0]
    layer.keep(3, torch.tensor([4, 7, 8]))
    assert layer.keys[0, 0, :, 0].tolist() == [0, 1, 2, 4, 7, 8]
    keys, values = cache.update(states(2, 90), states(2, 95), 0)
    assert keys[1, 2, :, 3].tolist() == [0, 1, 2, 4, 7, 8, 90, 91]
    assert values[0, 0, :, 0].tolist() == [50, 51, 52, 54, 57, 58, 95, 96]
    assert keys.data_ptr() == place
    layer.keep(0, torch.tensor([], dtype=torch.long))
    assert cache.get_seq_length(0) == 0


def test_rows_chosen_by_a_caller_are_kept_apart_from_the_buffers() -> None:
    cache = make_cache_of_one()
    cache.update(states(4), states(4), 0)
    cache.batch_select_indices(torch.tensor([1]))
    keys, _ = cache.update(states(1, 9)[:1], states(1, 9)[:1], 0)
    assert keys.shape[:3] == (1, 3, 5)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 9]


def test_stock_generate_goes_on_from_a_cache_of_the_engine(make_model) -> None:
    model, ids = make_model(4, 4, 2), torch.arange(3, 60)[None]
    start = prefill(model, TokenizedPrompt.from_ids(ids[0].numpy()), sizes=RowSizes(2))
    first = start.logits.argmax(-1, keepdim=True)
    with torch.no_grad():
        found = model(first, past_key_values=start.cache).logits[0, -1]
        expected = model(torch.cat([ids, first], dim=1)).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@given(st.integers(1, 200_000), st.sampled_from([1, 2, 16, 32, 64]))
def test_a_size_holds_its_rows_and_little_more(rows: int, per_octave: int) -> None:
    sizes = RowSizes(per_octave)
    size = sizes.at_least(rows)
    assert rows <= size <= max(rows + 15, rows * (1 + 1 / per_octave))
    assert sizes.at_least(size) == size
    assert sizes.at_least(rows + 1) >= size


def test_there_are_few_sizes() -> None:
    assert len({RowSizes(32).at_least(rows) for rows in range(1024, 8193)}) == 97
    assert {EVERY_SIZE.at_least(rows) for rows in range(50)} == set(range(50))
    with pytest.raises(ValueError, match="power of two"):
        RowSizes(24)


def test_float32_on_a_cpu_is_not_padded() -> None:
    assert row_sizes(torch.device("cpu"), torch.float32) == EVERY_SIZE
    assert row_sizes(torch.device("cpu"), torch.bfloat16) == row_sizes(torch.device("cuda"), torch.float32) == RowSizes(32)
