"""Device maps on GPUs: layers on the CPU and on disk are fetched to the GPU, and layers may be on two GPUs."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from erecap import DecodeOptions, decode, prefill

pytestmark = pytest.mark.gpu
pytest.importorskip("accelerate")

STEPS = DecodeOptions(6, ignore_eos=True)


@pytest.fixture(scope="module")
def spread(nano, tmp_path_factory):
    """``spread(devices)``: the random model with its layers on ``devices`` in turn, the other parts on the first."""
    folder = tmp_path_factory.mktemp("nano")
    nano().save_pretrained(folder)

    def load(*devices):
        layers = {f"model.layers.{number}": devices[number * len(devices) // 8] for number in range(8)}
        others = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), devices[0])
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map=others | layers).eval()

    return load


def run(model, pruning, prompt):
    schedule, selector = pruning(model, "random")
    start = prefill(model, [prompt(300), prompt(200)], schedule, selector)
    kept = [stage.positions.cpu() for stage in start.stages]
    return start.logits.cpu(), kept, list(decode(model, start, STEPS)), start


def agree(found, wanted):
    torch.testing.assert_close(found[0], wanted[0], atol=1e-3, rtol=1e-3)
    assert all(torch.equal(one, other) for one, other in zip(found[1], wanted[1], strict=True))
    assert found[2] == wanted[2]


def test_layers_on_the_cpu_and_on_disk_compute_on_the_gpu(device, nano, spread, pruning, prompt):
    main = device.index if device.type == "cuda" else "cpu"
    model = spread(main, "cpu", "disk")
    found = run(model, pruning, prompt)
    assert {layer.keys.device for layer in found[3].cache.layers} == {torch.device(device)}
    assert any(weight.is_meta for weight in model.parameters())
    agree(found, run(nano(), pruning, prompt))


def test_two_gpus_give_what_one_gives_without_a_wait_of_the_host(cuda, nano, spread, pruning, prompt):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    model = spread(0, 1)
    found = run(model, pruning, prompt)
    assert [stage.positions.device.index for stage in found[3].stages] == [
        0 if stage.after_layer < 4 else 1 for stage in found[3].stages
    ]
    agree(found, run(nano(), pruning, prompt))
    schedule, selector = pruning(model, "random")
    torch.cuda.set_sync_debug_mode("error")
    try:
        prefill(model, prompt(300), schedule, selector)
    finally:
        torch.cuda.set_sync_debug_mode("default")
