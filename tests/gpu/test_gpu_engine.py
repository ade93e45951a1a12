"""The engine on a GPU: it agrees with the masked reference, in both precisions, by every attention kernel, alone and in batches."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import is_flash_attn_2_available

from erecap import decode, prefill
from erecap.dropin.reference import reference
from erecap.engine.decode import DecodeOptions, banned

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error in the Euclidean norm; not a number where either has one."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [17, 64, 300, 1000])
def test_agrees_with_the_masked_reference(nano, pruning, prompt, dtype, length):
    model = nano(dtype)
    schedule, selector = pruning(model, "random")
    found, expected = prefill(model, prompt(length), schedule, selector), reference(model, prompt(length), [], schedule, selector)
    assert [stage.positions[0].tolist() for stage in found.stages] == [list(kept) for kept in expected.kept]
    assert distance(found.logits, expected.logits) < TOLERANCE[dtype]


def test_the_learned_selector_keeps_what_the_reference_keeps(nano, pruning, prompt):
    model = nano(torch.float32)
    schedule, selector = pruning(model)
    found, expected = prefill(model, prompt(500), schedule, selector), reference(model, prompt(500), [], schedule, selector)
    for stage, kept in zip(found.stages, expected.kept, strict=True):
        assert len(set(stage.positions[0].tolist()) & set(kept)) >= 0.99 * len(kept)


def test_bfloat16_is_near_float32(nano, pruning, prompt):
    logits = [prefill(nano(dtype), prompt(300), *pruning(nano(dtype), "random")).logits for dtype in DTYPES]
    weights = [next(nano(dtype).parameters()) for dtype in DTYPES]
    assert logits[1].isfinite().all()
    assert float(weights[0].std()) == pytest.approx(float(weights[1].float().std()), rel=0.05)


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION])
def test_every_attention_kernel_agrees(cuda, nano, pruning, prompt, backend):
    model = nano(torch.bfloat16)
    schedule, selector = pruning(model, "random")
    with sdpa_kernel([SDPBackend.MATH]):
        expected = prefill(model, prompt(700), schedule, selector).logits
    try:
        with sdpa_kernel([backend]):
            found = prefill(model, prompt(700), schedule, selector).logits
    except RuntimeError as error:
        pytest.skip(f"this torch has no such kernel: {error}")
    assert distance(found, expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed")
def test_flash_attention_2_agrees(cuda, nano, pruning, prompt):
    model, flash = nano(torch.bfloat16), nano(torch.bfloat16, "flash_attention_2")
    schedule, selector = pruning(model, "random")
    expected = prefill(model, prompt(700), schedule, selector).logits
    assert distance(prefill(flash, prompt(700), schedule, selector).logits, expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_batch_gives_what_its_rows_give_alone(nano, pruning, prompt, dtype):
    model = nano(dtype)
    schedule, selector = pruning(model, "random")
    rows = [prompt(300), prompt(90), prompt(33)]
    found = prefill(model, rows, schedule, selector)
    for row, alone in enumerate(prefill(model, one, schedule, selector) for one in rows):
        assert found.layer_tokens[row] == alone.layer_tokens[0]
        assert distance(found.logits[row], alone.logits[0]) < TOLERANCE[dtype]


def test_a_batch_decodes_what_its_rows_decode_alone(nano, pruning, prompt):
    model = nano(torch.float32)
    schedule, selector = pruning(model, "random")
    rows, options = [prompt(300), prompt(90)], DecodeOptions(16, ignore_eos=True)
    together = list(decode(model, prefill(model, rows, schedule, selector), options))
    for row, one in enumerate(rows):
        alone = list(decode(model, prefill(model, one, schedule, selector), options))
        assert [step[row] for step in together] == [step[0] for step in alone]


def test_rows_that_have_ended_leave_the_batch(nano, pruning, prompt):
    model = nano(torch.float32)
    schedule, selector = pruning(model, "random")
    rows = [prompt(300), prompt(90), prompt(33)]
    free = [[step[0] for step in decode(model, prefill(model, one, schedule, selector), DecodeOptions(16))] for one in rows]
    ends = frozenset([free[0][3], free[1][7]])
    start = prefill(model, rows, schedule, selector)
    together = list(zip(*decode(model, start, DecodeOptions(16, eos_ids=ends)), strict=True))
    for answer, whole in zip(together, free, strict=True):
        end = next((place for place, token in enumerate(whole) if token in ends), 15)
        assert [token for token in answer if token is not None] == whole[: end + 1]
    assert all(layer.keys.shape[0] < 3 for layer in start.cache.layers)


def test_decode_agrees_with_the_masked_reference(nano, pruning, prompt):
    model = nano(torch.float32)
    schedule, selector = pruning(model, "random")
    tokens = [
        step[0] for step in decode(model, prefill(model, prompt(300), schedule, selector), DecodeOptions(16, ignore_eos=True))
    ]
    expected = reference(model, prompt(300), tokens[:-1], schedule, selector)
    assert expected.logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("keep", [1.0, 0.7])
@pytest.mark.parametrize("name", ["learned", "random"])
def test_prefill_never_waits_for_the_gpu(cuda, nano, pruning, prompt, name, keep):
    model = nano(torch.bfloat16)
    schedule, selector = pruning(model, name, keep)
    prefill(model, prompt(700), schedule, selector)  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    result = prefill(model, prompt(700), schedule, selector)
    torch.cuda.set_sync_debug_mode("default")
    assert result.logits.isfinite().all()


def test_banning_tokens_never_waits_for_the_gpu(cuda):
    logits = torch.zeros(2, 1000, device=cuda)
    banned(logits, [[1], []])  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    masked = banned(logits, [[3, 999], [0]])
    torch.cuda.set_sync_debug_mode("default")
    assert masked.isinf().nonzero().tolist() == [[0, 3], [0, 999], [1, 0]]
