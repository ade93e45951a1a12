"""Loading of models, tokenizers and pruners from directories or the hub."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from torch.distributed import DistError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from erecap.models.device import check_free_memory, execution_device, explain_out_of_memory, resolve_dtype
from erecap.models.draft_head import CONFIG_FILE as DRAFT_HEAD_CONFIG
from erecap.models.draft_head import DraftHead
from erecap.models.identity import ModelIdentity, check_finite, identify
from erecap.models.out_of_memory import out_of_memory
from erecap.models.placement import Placement, PlacementError, PlacementOptions, choose_placement
from erecap.models.pruner import TokenPruner, place_pruner

_BUNDLED = Path(__file__).parents[1] / "bundled"
_TURN_END = "<|im_end|>"
_TRUST: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""Options by which transformers runs no code of a model's directory and unpickles no weights."""


class ModelNotFoundError(ValueError):
    """An error for a directory or hub id from which no model can be read."""


def bundled_texts() -> Path:
    """Return the sample of instructions that ships with erecap."""
    return _BUNDLED / "texts" / "sample.jsonl"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode on its devices, with its tokenizer.

    Attributes
    ----------
    model
        The model.
    tokenizer
        The model's transformers tokenizer.
    device
        Device that takes the token ids: that of the weights where all are on one.
    dtype
        Dtype of the weights.
    eos_ids
        Tokens that end an answer.
    devices
        Devices on which this process computes.
    spread
        How the model is spread over devices (``Placement.facts``); empty for a model on one device.
    """

    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    eos_ids: frozenset[int]
    devices: tuple[torch.device, ...]
    spread: dict[str, str] = field(default_factory=dict)

    @cached_property
    def identity(self) -> ModelIdentity:
        """The identity of the model, against which a pruner is checked."""
        return identify(self.model)


# The backends of one process share a model, so baseline and erecap hold it once. It is freed with the last of them.
_loaded: WeakValueDictionary[tuple[str, torch.dtype, Placement], LoadedModel] = WeakValueDictionary()


def bundled_planner_dir(name: str = "planner") -> Path:
    """Return the directory of a planner that ships with erecap, whether or not it exists."""
    return _BUNDLED / name


def bundled_pruner_dir() -> Path:
    """Return the directory of the bundled planner's pruner, whether or not it exists."""
    return _BUNDLED / "pruner"


def bundled_draft_head_dir() -> Path:
    """Return the directory of the bundled planner's draft head, whether or not it exists."""
    return _BUNDLED / "draft_head"


def load_model(
    source: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
    placement: PlacementOptions | None = None,
) -> LoadedModel:
    """Load a model, or share the one that another caller has loaded in the same dtype to the same place.

    A process that has joined ranks (``erecap.distributed.ranks``) loads its part of the model, together with the others.

    Parameters
    ----------
    source
        Directory or hub id. Default: the bundled planner.
    dtype
        ``float32``, ``bfloat16`` or ``float16``. Default: the fast one on the device.
    device
        Torch device, such as ``cpu`` or ``cuda:0``. Default: the GPU where there is one.
    placement
        A device map and what belongs to it, instead of ``device``.

    Raises
    ------
    ModelNotFoundError
        Where there is no model.
    OutOfMemoryError
        Where the GPU cannot hold it.
    ValueError
        For an unknown dtype or device, and for a placement that does not fit the model, this machine or the launch.
    """
    name = _resolve(source)
    place = choose_placement(placement or PlacementOptions(device), read_config(name))
    kind = resolve_dtype(dtype, place.device)
    loaded = _loaded.get((name, kind, place))
    if loaded is None:
        loaded = _loaded[(name, kind, place)] = _load(name, kind, place)
    return loaded


def load_pruner(source: str | Path | None, loaded: LoadedModel) -> TokenPruner:
    """Load a pruner, each scorer to where its stage's layer computes, in the model's dtype.

    Parameters
    ----------
    source
        Directory of the pruner; ``None`` for the bundled one.
    loaded
        The model that it will prune.

    Raises
    ------
    PrunerMismatchError
        Where it was trained for another model.
    ValueError
        Where there is no pruner.
    """
    pruner = TokenPruner.from_pretrained(bundled_pruner_dir() if source is None else source, loaded.identity)
    return place_pruner(pruner, loaded.model)


def load_draft_head(source: str | Path | None, loaded: LoadedModel) -> DraftHead | None:
    """Load a draft head to where the model's output matrix computes, in float32.

    Parameters
    ----------
    source
        Directory of the head; ``None`` for the bundled one, where the model is the one it belongs to.
    loaded
        The model whose answers it guesses.

    Returns
    -------
    DraftHead or None
        ``None`` where no directory is named and no bundled head fits.

    Raises
    ------
    DraftHeadMismatchError
        Where it was trained for another model.
    ValueError
        Where there is no head in ``source``.
    """
    if source is None and not (bundled_draft_head_dir() / DRAFT_HEAD_CONFIG).is_file():
        return None
    head = DraftHead.from_pretrained(bundled_draft_head_dir() if source is None else source)
    if source is None and not head.identity.matches(loaded.identity):
        return None
    head.check_model(loaded.identity)
    return head.to(loaded.devices[-1])


def eos_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Collect the ids of the tokens that end an answer: from generation config and tokenizer, and ChatML's ``<|im_end|>``."""
    ids = {tokenizer.eos_token_id, tokenizer.get_vocab().get(_TURN_END)}
    return ending_tokens(model) | frozenset(token for token in ids if token is not None)


def ending_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Read the ids of the tokens that end an answer from a model's generation config."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(token for token in (ids if isinstance(ids, list) else [ids]) if token is not None)


def _resolve(source: str | Path | None) -> str:
    if source is None:
        if not (bundled_planner_dir() / "config.json").is_file():
            raise ModelNotFoundError(
                "this installation has no bundled planner: run `erecap train-planner`, or name a model with model=..."
            )
        return str(bundled_planner_dir())
    if Path(source).is_dir():
        return str(Path(source).resolve())
    own = bundled_planner_dir(str(source)) if str(source).startswith("planner") else None  # planner-textworld
    return str(source if own is None or not (own / "config.json").is_file() else own)


def _load(name: str, dtype: torch.dtype, place: Placement) -> LoadedModel:
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = _read_weights(name, dtype, place).eval().requires_grad_(False)
    check_finite(model, f"the model {name}")
    if place.whole:
        model = _moved(model, name, place.device)
    entry = execution_device(model.get_input_embeddings())
    loaded = LoadedModel(model, tokenizer, entry, dtype, eos_ids(model, tokenizer), place.devices(model), place.facts(model))
    if place.ranks > 1:
        _ = loaded.identity  # all ranks compute it together, so here, where all of them are
    return loaded


def _read_weights(name: str, dtype: torch.dtype, place: Placement) -> Any:
    if place.whole and place.device.type == "cpu":
        check_free_memory(place.device, _stored_numbers(name) * dtype.itemsize, f"the model {name}")
    options: dict[str, Any] = {"attn_implementation": "sdpa", "output_loading_info": True, **_TRUST, **place.load_options()}
    with explain_out_of_memory(place.device, f"loading {name}"), _explained(name), place.explained(name):
        loader: Any = AutoModelForCausalLM  # its types know no pair of model and loading info
        model, found = loader.from_pretrained(name, dtype=dtype, **options)
    missing = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if missing:
        raise ModelNotFoundError(
            f"the weights of {name!r} do not fit its config.json: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} "
            "are missing or have another shape; copy the model again"
        )
    return model


def _stored_numbers(name: str) -> int:
    """Count the numbers in the safetensors files of a directory; 0 for a hub id."""
    with _explained(name):
        files: list[Any] = [safe_open(path, framework="pt") for path in Path(name).glob("*.safetensors")]
        return sum(math.prod(file.get_slice(key).get_shape()) for file in files for key in file.keys())  # noqa: SIM118


def _moved(model: Any, name: str, device: torch.device) -> Any:
    check_free_memory(device, sum(weight.nbytes for weight in model.parameters()), f"the model {name}")
    with explain_out_of_memory(device, f"loading {name}"):
        return model.to(device)


def read_config(source: str | Path | None = None) -> PretrainedConfig:
    """Read the config of the model that ``load_model`` would load. Raise ``ModelNotFoundError`` where there is none."""
    name = _resolve(source)
    with _explained(name):
        config: PretrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return config


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what transformers, tokenizers, safetensors and the hub raise for a missing or broken model into one error."""
    try:
        yield
    except (PlacementError, DistError):
        raise
    except Exception as error:  # damaged files raise anything: a bare Exception from tokenizers, KeyError, TypeError, ...
        if isinstance(error, RuntimeError | MemoryError) and out_of_memory(error) is not None:
            raise
        raise ModelNotFoundError(
            f"no model could be read from {name!r}, neither as a directory nor as a hub id ({type(error).__name__}: {error}): "
            "give a directory with config.json, weights and tokenizer, or an id such as Qwen/Qwen2-7B-Instruct"
        ) from error
