"""Damaged files: whatever is done to a file that we load, loading gives a value or an error with the path and the remedy."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.thresholds import Fit, PrunerThresholds, read_calibration
from erecap.distributed.device_map import read_device_map
from erecap.models.draft_head import DraftHead
from erecap.models.files import FileError, fill_atomically
from erecap.models.identity import identify
from erecap.models.loading import ModelNotFoundError, load_model
from erecap.models.pruner import TokenPruner, weights_checksum
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.results import ResultFile, read_result
from erecap.schedule import PruneStage
from erecap.sessions import ReplanSession
from erecap.training.checkpoint import StepLog, load_checkpoint, read_log, save_checkpoint
from erecap.training.saliency_file import SALIENCY_FORMAT, SaliencySet, SalientSample, write_samples
from erecap.training.sequences import ShardedSequences, TokenSequence, write_shard

Load = Callable[[Path], Any]
FOREIGN = (b"", b"{}", b"[]", b"null", b"7", b'"text"', b"not ours\n", b"\xff\xfe\x00", b"{" * 5000, b'{"format_version": 2}')
"""Contents that are none of ours."""


def _model(folder: Path, model_dir: str) -> Load:
    shutil.copytree(model_dir, folder, dirs_exist_ok=True)
    return lambda path: load_model(path, "float32", "cpu")


def _pruner(folder: Path, model_dir: str) -> Load:
    model = load_model(model_dir, "float32", "cpu").model
    torch.manual_seed(0)
    TokenPruner(identify(model), (0, 2)).save_pretrained(folder)
    return lambda path: TokenPruner.from_pretrained(path, identify(model))


def _draft_head(folder: Path, model_dir: str) -> Load:
    model = load_model(model_dir, "float32", "cpu").model
    torch.manual_seed(0)
    DraftHead(identify(model), 16, 2).save_pretrained(folder)
    return lambda path: DraftHead.from_pretrained(path, identify(model))


def _calibration(folder: Path, model_dir: str) -> Load:
    _pruner(folder, model_dir)
    fit = Fit((PruneStage(0, 0.7, 0.25), PruneStage(2, 0.7, -1.5)), 3, 900, "prompts of runs/a")
    PrunerThresholds(weights_checksum(folder), (fit,)).save(folder)
    return read_calibration


def _cost(folder: Path, model_dir: str) -> Load:
    setting = Setting.of(load_model(model_dir, "float32", "cpu"), "learned")
    CostModel(setting, 9, 1e-3, 1e-6, 1e-9, 1e-4, 1e-7, 2e-3, 1e-8).save(folder / "cost.json")
    return lambda path: CostModel.load(path / "cost.json", setting)


def _saliency(folder: Path, model_dir: str) -> Load:
    identity = identify(load_model(model_dir, "float32", "cpu").model)
    ids, turns = np.arange(12, dtype=np.int32), np.repeat(np.int32([0, 1]), 6)
    sample = SalientSample(0, ids, turns, turns == 1, np.ones((2, 12), np.float32))
    metadata = {
        "format": SALIENCY_FORMAT,
        "name": identity.name,
        "model": {key: value for key, value in vars(identity).items() if key != "name"},
        "stages": [0, 2],
        "loss": "words",
        "data": "0123",
        "samples": 1,
        "settings": {},
    }
    write_samples(folder / "saliency.safetensors", [sample], metadata)
    return lambda path: SaliencySet(path / "saliency.safetensors", identity)


def _shard(folder: Path, model_dir: str) -> Load:
    one = TokenSequence(np.arange(9, dtype=np.int32), np.ones(9, np.float32), np.zeros(9, np.int32))
    write_shard(folder / "shard.safetensors", [one, one])
    return lambda path: list(map(ShardedSequences([path / "shard.safetensors"]).__getitem__, range(2)))


def _checkpoint(folder: Path, model_dir: str) -> Load:
    save_checkpoint(folder, {"module": {"weight": torch.arange(64.0)}, "step": 3})
    return load_checkpoint


def _log(folder: Path, model_dir: str) -> Load:
    log = StepLog(folder, 0)
    for step in range(1, 5):
        log.append({"step": step, "loss": 1.5})
    return read_log


def _result(folder: Path, model_dir: str) -> Load:
    ResultFile(folder / "prefill.json", kind="prefill", machine={"device_name": "cpu"}).finish()
    return lambda path: read_result(path / "prefill.json")


def _device_map(folder: Path, model_dir: str) -> Load:
    (folder / "map.json").write_text('{"model": 0, "lm_head": "cpu"}')
    return lambda path: read_device_map(path / "map.json")


def _session(folder: Path, model_dir: str) -> Load:
    model = load_model(model_dir, "float32", "cpu").model
    session = ReplanSession(model)
    session.extend(TokenizedPrompt.from_ids(np.arange(3, 12)))
    session.save(folder / "session.safetensors")
    return lambda path: ReplanSession.load(path / "session.safetensors", model)


MAKERS: dict[str, Callable[[Path, str], Load]] = {
    "config.json": _model,
    "generation_config.json": _model,
    "tokenizer.json": _model,
    "tokenizer_config.json": _model,
    "model.safetensors": _model,
    "pruner.json": _pruner,
    "pruner.safetensors": _pruner,
    "draft_head.json": _draft_head,
    "draft_head.safetensors": _draft_head,
    "calibration.json": _calibration,
    "cost.json": _cost,
    "saliency.safetensors": _saliency,
    "shard.safetensors": _shard,
    "checkpoint.pt": _checkpoint,
    "log.jsonl": _log,
    "prefill.json": _result,
    "map.json": _device_map,
    "session.safetensors": _session,
}
TOLERANT = ("generation_config.json", "tokenizer_config.json", "log.jsonl")
"""Files that transformers can do without, and one in which a last line without an end is a kill's."""
CHECKED = (
    "pruner.safetensors",
    "draft_head.safetensors",
    "saliency.safetensors",
    "shard.safetensors",
    "checkpoint.pt",
    "session.safetensors",
)
"""Files in which no changed byte of the values goes unnoticed."""


def damaged(content: bytes, seed: int) -> list[bytes]:
    """Truncations, flipped bits and noise, spread over the file."""
    rng = np.random.default_rng(seed)
    cuts = [content[:size] for size in rng.integers(0, len(content), 4)]
    found = []
    for place in rng.integers(0, len(content), 8):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        found.append(bytes(changed))
    start = int(rng.integers(0, max(1, len(content) - 64)))
    noise = content[:start] + rng.bytes(64) + content[start + 64 :]
    return [*cuts, *found, noise]


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_file_is_an_error_with_a_remedy_or_still_a_value(name: str, tmp_path: Path, model_dir: str):
    load = MAKERS[name](tmp_path, model_dir)
    file = tmp_path / name
    load(tmp_path)  # as it was written
    content, refused = file.read_bytes(), 0
    for bad in (*FOREIGN, *damaged(content, len(name))):
        file.write_bytes(bad)
        error = error_of(load, tmp_path)
        refused += error is not None
        assert error is None or not isinstance(error, FileError) or str(tmp_path) in str(error), error
        assert error is not None or name not in CHECKED or len(bad) == len(content), f"{bad[:40]!r} was taken"
    assert refused >= (0 if name in TOLERANT else len(FOREIGN) // 2)


def error_of(load: Load, folder: Path) -> ValueError | None:
    """Load, and return the error for the user, if there is one. Other exceptions are raised."""
    try:
        load(folder)
    except ValueError as error:
        return error
    return None


@pytest.mark.parametrize("name", CHECKED)
def test_no_flipped_bit_of_the_values_goes_unnoticed(name: str, tmp_path: Path, model_dir: str):
    load = MAKERS[name](tmp_path, model_dir)
    file, content = tmp_path / name, (tmp_path / name).read_bytes()
    if name.endswith(".safetensors"):
        begin, end = 8 + int.from_bytes(content[:8], "little"), len(content)
    else:
        begin = content.find(torch.arange(64.0).numpy().tobytes())
        end = begin + 256
    for place in np.random.default_rng(0).integers(begin, end, 40):
        changed = bytearray(content)
        changed[place] ^= 4
        file.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"damaged|cannot be read"):
            load(tmp_path)


@pytest.mark.parametrize(("make", "name"), [(_pruner, "pruner.json"), (_calibration, "calibration.json"), (_cost, "cost.json")])
def test_no_changed_digit_goes_unnoticed(make: Callable[[Path, str], Load], name: str, tmp_path: Path, model_dir: str):
    load, file = make(tmp_path, model_dir), tmp_path / name
    text = file.read_text()
    for place in (i for i, letter in enumerate(text) if letter.isdigit()):
        file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
        with pytest.raises(ValueError, match=name):
            load(tmp_path)
    file.write_text(json.dumps(json.loads(text)))  # another spelling of the same values
    load(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused_and_not_made_up(tmp_path: Path, model_dir: str):
    shutil.copytree(model_dir, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    lost = weights.pop("model.layers.1.self_attn.q_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"q_proj\.weight are missing or have another shape; copy the model again"):
        load_model(tmp_path, "float32", "cpu")
    save_file(
        weights | {"model.layers.1.self_attn.q_proj.weight": lost[:8]}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
        load_model(tmp_path, "float32", "cpu")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", '"0.1"', "true"])
@pytest.mark.parametrize(("make", "name", "key"), [(_calibration, "calibration.json", "tau"), (_cost, "cost.json", "per_token_s")])
def test_numbers_that_are_none_are_refused(
    make: Callable[[Path, str], Load], name: str, key: str, value: str, tmp_path: Path, model_dir: str
):
    load, file = make(tmp_path, model_dir), tmp_path / name
    old = json.dumps(_first(json.loads(file.read_text()), key))
    unsealed = json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "checksum"})
    file.write_text(unsealed.replace(f'"{key}": {old}', f'"{key}": {value}', 1))
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path)


def _first(value: Any, key: str) -> Any:
    """Find the first value under ``key``."""
    if isinstance(value, dict):
        return value[key] if key in value else next((v for v in (_first(x, key) for x in value.values()) if v is not None), None)
    return next((v for v in (_first(x, key) for x in value) if v is not None), None) if isinstance(value, list) else None


def test_negative_prices_are_refused(tmp_path: Path, model_dir: str):
    load = _cost(tmp_path, model_dir)
    replace(load(tmp_path), step_s=-1.0).save(tmp_path / "cost.json")
    with pytest.raises(FileError, match=r"step_s=-1\.0"):
        load(tmp_path)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from erecap.models.draft_head import DraftHead
from erecap.models.files import FileError, fill_atomically
from safetensors.torch import save_file
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # a file that grows beyond it fails as on a full disk
path, big = Path(sys.argv[1]), torch.zeros(1 << 16)
for write in (
    lambda partial: partial.write_bytes(bytes(1 << 20)),
    lambda partial: torch.save(big, partial),
    lambda partial: save_file({"x": big}, partial),
):
    try:
        fill_atomically(path, write)
    except FileError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.endswith("free some space, or name a path that can be written") for line in done.stdout.splitlines()] == [True] * 3
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_an_interrupted_write_leaves_no_rest(tmp_path: Path):
    def interrupted(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_atomically(tmp_path / "file", interrupted)
    assert not list(tmp_path.iterdir())
