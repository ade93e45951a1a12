"""Loading, devices and dtypes: defaults, sharing, and errors that say what to do."""

import json
import shutil

import pytest
import torch

from erecap.backend import make_backend
from erecap.models import device as device_module
from erecap.models import loading
from erecap.models.architecture import UnsupportedModelError
from erecap.models.device import OutOfMemoryError, default_dtype, explain_out_of_memory, resolve_device, resolve_dtype
from erecap.models.loading import ModelNotFoundError, load_model
from planner import BackendSpec

CPU = torch.device("cpu")


def test_loads_in_evaluation_mode_and_frozen(model_dir):
    loaded = load_model(model_dir, "float32", "cpu")
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.eos_ids == {2}


@pytest.fixture
def own_model_dir(model_dir, tmp_path):
    """A model that no other test has loaded: theirs may still be held, by an exception that has been caught."""
    return str(shutil.copytree(model_dir, tmp_path / "own"))


def test_is_shared_while_in_use_and_freed_after(own_model_dir):
    loaded = load_model(own_model_dir, "float32", "cpu")
    assert load_model(own_model_dir, "float32", "cpu") is loaded
    assert load_model(own_model_dir, "bfloat16", "cpu").model.dtype == torch.bfloat16
    assert [dtype for name, dtype, _ in loading._loaded if name == own_model_dir] == [torch.float32]


def test_a_missing_bundled_planner_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "_BUNDLED", tmp_path)
    with pytest.raises(ModelNotFoundError, match="erecap train-planner"):
        load_model()


def test_a_missing_model_says_what_to_give(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"give a directory with config\.json"):
        load_model(tmp_path, device="cpu")


def test_another_architecture_is_refused_before_its_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for name in ("baseline", "erecap"):
        with pytest.raises(UnsupportedModelError, match=r"'gpt2' is not supported.*hf-generate"):
            make_backend(BackendSpec.parse(f"{name}?model={tmp_path}&device=cpu"))


def test_a_directory_without_weights_says_what_to_give(tmp_path, model_dir):
    shutil.copytree(model_dir, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelNotFoundError, match=r"no file named model\.safetensors.*give a directory"):
        load_model(tmp_path / "model", device="cpu")


def test_cpu_dtype_follows_the_processors_flags(monkeypatch):
    for flags, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        device_module._cpu_multiplies_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert default_dtype(CPU) == expected
    device_module._cpu_multiplies_bfloat16.cache_clear()


def test_gpu_dtype_is_bfloat16():
    assert default_dtype(torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_device("cuda:7"), "not there"),
        (lambda: resolve_device("mps"), r"'mps' cannot be used here \(.+\): use 'cpu'"),
        (lambda: resolve_device("xpu"), r"'xpu' cannot be used here \(.+\): use 'cpu'"),
        (lambda: resolve_device("meta"), "'meta' holds no numbers"),
        (lambda: resolve_device("gpu"), "'gpu' is not known"),
        (lambda: resolve_dtype("int8", CPU), "float32 or bfloat16"),
    ],
)
def test_unknown_devices_and_dtypes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_full_gpu_says_how_much_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 8 * 2**30))
    with pytest.raises(OutOfMemoryError, match=r"needs 15\.0 GiB and cuda has 1\.0 of 8\.0 GiB free"):
        device_module.check_free_memory(torch.device("cuda"), 15 * 2**30, "the model")


def test_a_model_that_the_host_cannot_hold_is_refused_before_it_is_read(monkeypatch, own_model_dir):
    monkeypatch.setattr(device_module, "available_bytes", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match=r"needs 0\.0 GiB and cpu has 0\.0 GiB free: end other processes, or use a smaller"):
        load_model(own_model_dir, "bfloat16", "cpu")


def test_running_out_of_host_memory_is_explained():
    with (
        pytest.raises(OutOfMemoryError, match="cpu ran out of memory in a prompt of 9 tokens"),
        explain_out_of_memory(CPU, "a prompt of 9 tokens"),
    ):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory(CPU, "x"):
        raise RuntimeError("another")


def test_running_out_of_memory_is_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with (
        pytest.raises(OutOfMemoryError, match="a prompt of 9 tokens: shorten the history"),
        explain_out_of_memory(CPU, "a prompt of 9 tokens"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
