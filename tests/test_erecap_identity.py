"""What identifies a model, and what is refused at loading: other weights, damaged files, values that are no numbers."""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erecap.models import identity as module
from erecap.models.files import read_json_object, write_json_object
from erecap.models.identity import ModelIdentity, identify
from erecap.models.loading import ModelNotFoundError, load_model
from erecap.models.pruner import CONFIG_FILE, WEIGHTS_FILE, PrunerMismatchError, TokenPruner


@pytest.fixture
def own_dir(model_dir: str, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture
def pruner_dir(make_model, tmp_path: Path) -> Path:
    """A pruner of the tiny model with 4 layers."""
    torch.manual_seed(0)
    TokenPruner(identify(make_model(4)), [1, 2]).save_pretrained(tmp_path / "pruner")
    return tmp_path / "pruner"


def flip(path: Path, seed: int) -> None:
    """Flip one bit of the values in a safetensors file."""
    content = bytearray(path.read_bytes())
    values_start = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(seed)
    content[draw.randrange(values_start, len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def test_no_flipped_bit_goes_unnoticed(own_dir: Path) -> None:
    weights = own_dir / "model.safetensors"
    before, whole = load_model(own_dir, "float32", "cpu").identity, weights.read_bytes()
    for seed in range(40):
        weights.write_bytes(whole)
        flip(weights, seed)
        with suppress(ValueError):  # a value that became infinite
            assert not before.matches(load_model(own_dir, "float32", "cpu").identity)


def test_the_same_weights_in_two_dtypes_are_one_model(own_dir: Path) -> None:
    full, short = (load_model(own_dir, dtype, "cpu").identity for dtype in ("float32", "bfloat16"))
    assert full.exact != full.checksum == short.checksum == short.exact
    assert full.matches(short)
    assert short.matches(full)


def test_zeroed_weights_are_another_model(own_dir: Path, pruner_dir: Path) -> None:
    tensors = load_file(own_dir / "model.safetensors")
    for tensor in tensors.values():
        flat = tensor.flatten()
        flat[1:][torch.arange(1, len(flat)) % 7 != 0] = 0
    save_file(tensors, own_dir / "model.safetensors", {"format": "pt"})
    with pytest.raises(PrunerMismatchError):
        TokenPruner.from_pretrained(pruner_dir, load_model(own_dir, "float32", "cpu").identity)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(own_dir: Path, value: float) -> None:
    tensors = load_file(own_dir / "model.safetensors")
    tensors["model.norm.weight"][3] = value
    save_file(tensors, own_dir / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.norm\.weight.*NaN or infinite"):
        load_model(own_dir, "float32", "cpu")


def test_a_large_model_is_hashed_again_after_a_change(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HASHED_ANEW_BELOW", 0)
    hashed: list[object] = []
    monkeypatch.setattr(module, "_hash", lambda model: hashed.append(model) or (str(len(hashed)), ""))
    model = make_model(2, seed=77)
    assert [identify(model).checksum for _ in range(3)] == ["1"] * 3
    with torch.no_grad():
        model.model.norm.weight.mul_(1)
    assert identify(model).checksum == "2"


def test_noise_in_a_pruner_is_noticed(pruner_dir: Path) -> None:
    content = bytearray((pruner_dir / WEIGHTS_FILE).read_bytes())
    content[-400:] = random.Random(1).randbytes(400)
    (pruner_dir / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="damaged or was replaced"):
        TokenPruner.from_pretrained(pruner_dir)


def test_a_pruner_with_weights_that_are_no_numbers_is_refused(make_model, tmp_path: Path) -> None:
    pruner = TokenPruner(identify(make_model(4)), [1])
    torch.nn.init.constant_(pruner.scorers[0].out.bias, torch.nan)
    pruner.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"scorers\.0\.out\.bias.*NaN"):
        TokenPruner.from_pretrained(tmp_path)


def test_identities_without_exact_hash_are_compared_by_the_rounded_one() -> None:
    one = ModelIdentity("a", "12", 4, 64, "34")
    assert one.matches(ModelIdentity("b", "12", 4, 64))
    assert not one.matches(ModelIdentity("a", "12", 4, 64, "56"))
    assert not one.matches(ModelIdentity("a", "13", 4, 64, "34"))


def test_code_in_a_model_s_directory_is_never_run(own_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    config = json.loads((own_dir / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (own_dir / "config.json").write_text(json.dumps(config))
    (own_dir / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    with pytest.raises(ModelNotFoundError):
        load_model(own_dir, "float32", "cpu")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(own_dir: Path, make_model) -> None:
    torch.save(make_model(4).state_dict(), own_dir / "pytorch_model.bin")
    (own_dir / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError):
        load_model(own_dir, "float32", "cpu")


def test_a_pruner_of_the_old_format_is_refused(pruner_dir: Path) -> None:
    config = pruner_dir / CONFIG_FILE
    write_json_object(config, read_json_object(config, "") | {"format_version": 1})
    with pytest.raises(ValueError, match="format version 1"):
        TokenPruner.from_pretrained(pruner_dir)
