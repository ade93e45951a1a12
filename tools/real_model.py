"""Turn the GGUF file in a directory into a model directory of safetensors, with its tokenizer. ``tools/real_model.sh`` calls it.

transformers reads GGUF files, and refuses to save a model that was read from one. A new model of the same configuration takes its
weights, and can be saved.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

_FROM_GGUF = ("quantization_config", "_name_or_path", "_model_name_or_path", "gguf_file")


def convert(source: Path, out: Path) -> None:
    """Write the model of the one GGUF file in ``source`` to ``out``, in bfloat16."""
    (file,) = source.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    settings = {name: value for name, value in read.config.to_dict().items() if name not in _FROM_GGUF}
    made = LlamaForCausalLM(LlamaConfig(**settings))
    made.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{file} has no chat template: take the file of an instruct model")
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    made.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    disable_progress_bar()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
