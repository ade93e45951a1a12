"""What each backend is, what its options mean, and how it is written: the content of ``erecap backends``.

It imports no model, so that the list appears at once. Tests compare it with what the backends accept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class BackendInfo:
    """One backend, as a user chooses it.

    Attributes
    ----------
    summary : str
        What it is.
    example : str
        A spec string that shows its form.
    options : mapping of str to str
        What each option means, by name.
    """

    summary: str
    example: str
    options: Mapping[str, str] = field(default_factory=dict)


MODEL_OPTIONS = {
    "model": "directory or hub id of a chat model: Qwen2, Qwen2.5, Qwen3, Llama, Mistral; by default the bundled planner",
    "dtype": "float32, bfloat16 or float16; by default the device's usual one",
    "device": "cpu, cuda, cuda:1; by default the GPU where there is one",
    "device_map": "several GPUs: auto, balanced, or a JSON file of module and device",
    "offload_folder": "with device_map: directory for weights that stay on disk",
    "max_memory": "with device_map: memory per device, such as 0:20GiB+cpu:60GiB",
    "reasoning": "off asks the chat template to let the model answer at once, where it has such a switch; on by default",
    "format": "lines: only lines that the world can read (needs erecap[formats]); choice: the likeliest line; free by default",
    "last": "keep the newest K observations of the prompt only, such as last=8",
    "mask": "blank all observations of the prompt but the newest K, such as mask=8",
}
"""Options of every backend that runs a model in this process."""
PRUNE_OPTIONS = {
    "keep": "share of the tokens kept at each stage, above 0 and at most 1; it compounds; 0.7 by default",
    "share": "instead of keep: share of the prompt that a layer sees, mean over the layers, such as 0.6; keep is solved for it",
    "stages": "layers after which tokens are dropped, such as 0-5 or 0+2+4; chosen for the model by default",
    "selector": "what scores tokens: learned (default), learned-steps, random, recency, key-norm, attention, gradient",
    "pruner": "directory of a trained pruner; by default the bundled planner's",
    "seed": "seed of selector=random; 0 by default",
    "rule": "who survives a stage: top_k (default), chunk_top_k, threshold",
    "budget_ms": "milliseconds that a replan may take; stages and ratios are then chosen for each prompt",
    "cost": "with budget_ms: file of `erecap calibrate --cost`; runs/cost.json by default",
}
"""Options of the pruned engine."""
SESSION_OPTIONS = {
    "kv_budget_mb": "most megabytes of keys and values of all sessions; 2048 by default",
    "draft": "what answers are drafted from, to verify several tokens at once: plan+context+head (default), fewer, or none",
    "draft_head": "directory of a draft head (`erecap train-draft-head`); by default the bundled planner's",
}
"""Options of the backends that keep sessions."""
STOCK_SESSION_OPTIONS = {
    "format": "lines: only lines that the world can read (needs erecap[formats]); free by default",
    "lookup": "most tokens of the prompt that prompt lookup guesses as the answer's next; 10 by default, 0 turns it off",
    "kv_budget_mb": SESSION_OPTIONS["kv_budget_mb"],
}
"""Options of stock transformers with a kept cache."""
SESSION_PRUNE_OPTIONS = {name: PRUNE_OPTIONS[name] for name in ("keep", "share", "stages", "selector", "pruner")} | {
    "rule": "who survives a stage: chunk_top_k (default for sessions) or threshold",
}
"""Options of pruning in a session."""
INFO: dict[str, BackendInfo] = {
    "expert": BackendInfo("the environment's own expert: plans from what the agent has seen, without a model", "expert"),
    "openai": BackendInfo(
        "a model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, or a hosted one; the key is OPENAI_API_KEY",
        "openai?base_url=http://localhost:8000/v1&model=NAME",
        {
            "base_url": "address of the endpoint; OpenAI's own by default",
            "model": "name of the model there; required",
            "api_key": "the key; by default the one in OPENAI_API_KEY, which other users of the machine cannot see",
            "timeout_s": "most seconds of silence; 120 by default",
            "limit_s": "most seconds of a whole answer; 600 by default",
            "max_tokens_name": "name of the limit of new tokens, such as max_completion_tokens; none leaves it out",
            "temperature": "a number instead of the agent's own; none leaves it out",
            "seed": "none leaves it out, for servers that reject it",
            "stream_options": "none leaves them out, for servers that reject them",
            "extra": 'more fields of the request as JSON, such as {"top_k":20}',
        },
    ),
    "baseline": BackendInfo(
        "this engine without pruning: what pruned backends are compared with", "baseline?model=DIR", MODEL_OPTIONS
    ),
    "erecap": BackendInfo(
        "this engine with pruning: drops unimportant prompt tokens layer by layer",
        "erecap?keep=0.7",
        {**MODEL_OPTIONS, **PRUNE_OPTIONS},
    ),
    "baseline-session": BackendInfo(
        "the unpruned engine with a prefix cache: each agent's keys and values stay, a replan runs new tokens only",
        "baseline-session?kv_budget_mb=512",
        {**MODEL_OPTIONS, **SESSION_OPTIONS},
    ),
    "erecap-session": BackendInfo(
        "the pruned cache kept between replans: new tokens run against what is left of the old ones",
        "erecap-session?keep=0.7",
        {**MODEL_OPTIONS, **SESSION_PRUNE_OPTIONS, **SESSION_OPTIONS},
    ),
    "hf-generate": BackendInfo(
        "stock transformers generate on the same model", "hf-generate?model=DIR&dtype=bfloat16", MODEL_OPTIONS
    ),
    "hf-session": BackendInfo(
        "stock transformers generate on a cache kept between replans, with prompt lookup",
        "hf-session?lookup=10",
        {**MODEL_OPTIONS, **STOCK_SESSION_OPTIONS},
    ),
}
"""The backends by name."""
OWN = BackendInfo("a backend of your own: a function of your package that returns it", "my_package.module:factory?key=value")
"""Backends by import path."""
