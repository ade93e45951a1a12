"""The captured decode step: the same tokens as the engine's decode, from caches of unequal lengths."""

import pytest
import torch

from erecap import decode, prefill
from erecap.engine.decode import DecodeOptions
from erecap.profiling.graph_decode import GraphDecoder

pytestmark = pytest.mark.gpu

NEW_TOKENS = 24


@pytest.mark.parametrize("pruned", [False, True], ids=["baseline", "pruned"])
def test_a_captured_step_decodes_the_same_tokens(cuda, nano, pruning, prompt, pruned):
    model = nano(torch.float32)
    start = prefill(model, prompt(300), *(pruning(model) if pruned else ()))
    decoder = GraphDecoder(model, start, NEW_TOKENS)
    decoder.capture()
    found, again = list(decoder.decode()), list(decoder.decode())
    assert found == again
    assert found == [step[0] for step in decode(model, start, DecodeOptions(NEW_TOKENS, ignore_eos=True))]


@pytest.mark.parametrize("captured", [False, True], ids=["step", "captured"])
def test_both_attentions_agree(cuda, nano, pruning, prompt, captured):
    model = nano(torch.bfloat16)
    start, logits = prefill(model, prompt(300), *pruning(model)), []
    for attention in ("split", "flash"):
        decoder = GraphDecoder(model, start, NEW_TOKENS, attention)
        if captured:
            decoder.capture()
        stream = decoder.decode()
        for _ in range(2):
            next(stream)
        logits.append(decoder.logits.float().clone())
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) < 4e-2
