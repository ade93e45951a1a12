"""Which architectures the engine runs, and what it says of those that it cannot."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig, PretrainedConfig, Qwen2ForCausalLM

import erecap
from erecap.backend import make_backend
from erecap.models.architecture import UnsupportedModelError, check_config, layer_types
from erecap.models.loading import load_model
from erecap.schedule import PruneSchedule
from erecap.selectors import RandomSelector
from planner.spec import BackendSpec

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1}
BACKENDS = ("baseline", "erecap", "baseline-session", "erecap-session", "hf-session")


def config_of(kind: str, **changes: Any) -> PretrainedConfig:
    classes = {"gemma3": "Gemma3TextConfig", "qwen3_5": "Qwen3_5TextConfig", "qwen2": "Qwen2Config", "mistral": "MistralConfig"}
    made: PretrainedConfig = getattr(transformers, classes[kind])(vocab_size=320, **SMALL, **changes)
    return made


def hybrid() -> PretrainedConfig:
    return config_of("qwen3_5", head_dim=16)


def sliding() -> PretrainedConfig:
    return config_of("gemma3", head_dim=16, sliding_window=8)


@pytest.mark.parametrize(
    ("config", "value", "rule", "remedy"),
    [
        (hybrid(), r"layers \[0, 1, 2, 4, 5\] have linear_attention", "folds all tokens into one state", "hf-generate"),
        (sliding(), r"layers \[0, 1, 2, 3, 4\] have sliding-window attention", "forgets old ones", "hf-generate"),
        (
            config_of("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2),
            r"layers \[2, 3, 4, 5\] have sliding-window attention",
            "needs full attention in every layer",
            "use_sliding_window=false",
        ),
        (config_of("mistral", sliding_window=8), r"layers \[0, 1, 2, 3, 4, 5\]", "full attention", "sliding_window=null"),
        (
            config_of("qwen2", layer_types=["chunked_attention"] + ["full_attention"] * 5),
            r"layers \[0\] have chunked",
            "needs full attention",
            "qwen3",
        ),
    ],
)
def test_layers_without_full_attention_are_named_with_the_reason_and_a_remedy(config, value, rule, remedy):
    for wanted in (value, rule, remedy):
        with pytest.raises(UnsupportedModelError, match=wanted):
            check_config(config)


def test_a_model_that_sees_images_is_judged_by_its_language_model():
    whole = transformers.Gemma3Config(text_config=sliding().to_dict())
    assert layer_types(whole)[:6] == ["sliding_attention"] * 5 + ["full_attention"]
    with pytest.raises(UnsupportedModelError, match="sliding-window attention"):
        check_config(whole)


def test_another_family_with_full_attention_is_refused_by_its_type():
    config = transformers.GPT2Config(n_layer=2)
    with pytest.raises(UnsupportedModelError, match=r"model type 'gpt2' is not supported.*use a model of qwen2, qwen3, llama"):
        check_config(config)


@pytest.mark.parametrize("config", [hybrid(), sliding()], ids=["hybrid", "sliding"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_of_the_engine_refuses_it_before_the_weights_are_read(tmp_path: Path, config: PretrainedConfig, backend: str):
    config.save_pretrained(tmp_path)  # no weights and no tokenizer: only the config is looked at
    options = {"model": str(tmp_path)} | ({"selector": "attention"} if backend == "erecap" else {})
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        make_backend(BackendSpec(backend, options))


def test_the_drop_in_refuses_a_loaded_model():
    model = transformers.Gemma3ForCausalLM(sliding()).eval()
    schedule = PruneSchedule.after([2], 0.5)
    with (
        pytest.raises(UnsupportedModelError, match="sliding-window attention"),
        erecap.pruned(model, None, schedule, RandomSelector()),
    ):
        pass


def test_commands_that_train_refuse_it_with_the_reason(tmp_path: Path, invoke):
    hybrid().save_pretrained(tmp_path / "model")
    for command in ("saliency", "train-pruner"):
        result = invoke(command, "--model", tmp_path / "model", "--data", tmp_path / "texts.jsonl", "--out", tmp_path / "out")
        assert isinstance(result.exception, UnsupportedModelError)
        assert "linear_attention" in str(result.exception)


def test_a_window_that_is_turned_off_changes_nothing(model_dir: str, tmp_path: Path):
    """Qwen2's configs name a window and say in the same breath that it is not used."""
    shutil.copytree(model_dir, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    content = json.loads(file.read_text()) | {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 2}
    content.pop("layer_types", None)
    file.write_text(json.dumps(content))
    check_config(AutoConfig.from_pretrained(tmp_path / "model"))
    loaded = load_model(str(tmp_path / "model"), "float32", "cpu")
    assert isinstance(loaded.model, Qwen2ForCausalLM)
    with erecap.pruned(loaded.model, None, PruneSchedule.after([1], 0.5), "attention") as stats:
        ids = loaded.tokenizer("goto kitchen " * 20, return_tensors="pt")["input_ids"]
        loaded.model.generate(ids, max_new_tokens=2, do_sample=False)
    assert len(stats.prefills) == 1
