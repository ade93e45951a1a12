"""The bundled planner with its one KV head doubled: the same function, which two processes can divide."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, Qwen2ForCausalLM

from erecap.models.identity import identify
from erecap.models.loading import bundled_planner_dir, bundled_pruner_dir
from erecap.models.pruner import TokenPruner


def save_split_planner(folder: Path) -> None:
    """Write the planner to ``folder / "planner"`` and its pruner to ``folder / "pruner"``, in float32."""
    config = AutoConfig.from_pretrained(bundled_planner_dir())
    weights = Qwen2ForCausalLM.from_pretrained(bundled_planner_dir(), dtype=torch.float32).state_dict()
    config.num_key_value_heads, config.dtype = 2, "float32"
    model = Qwen2ForCausalLM(config)
    model.load_state_dict({name: torch.cat([part] * 2) if _is_kv(name) else part for name, part in weights.items()})
    model.save_pretrained(folder / "planner")
    AutoTokenizer.from_pretrained(bundled_planner_dir()).save_pretrained(folder / "planner")
    pruner = TokenPruner.from_pretrained(bundled_pruner_dir())
    pruner.identity = identify(model)
    pruner.save_pretrained(folder / "pruner")


def _is_kv(name: str) -> bool:
    return ".k_proj." in name or ".v_proj." in name
