"""Fixtures shared by all tests: small random models and a tiny ChatML tokenizer, made on the spot."""

import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from benchmarks import cli
from erecap.training.sequences import TokenSequence

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = [
    "goto kitchen\npickup key\nunlock door\nexplore\ndone",
    "You are in the hall. You see a red ball, a blue box. Put the ball in the box!",
]


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


@cache
def build_model(layers: int = 8, heads: int = 4, kv_heads: int = 1, seed: int = 0) -> Qwen2ForCausalLM:
    """Initialised at 1/sqrt(width), which keeps attention and logits far from uniform, so that greedy tokens are no near ties."""
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        initializer_range=64**-0.5,
        tie_word_embeddings=False,
        eos_token_id=2,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Qwen2ForCausalLM]:
    """``make_model(layers, heads, kv_heads, seed)``: a random Qwen2 in float32, cached, not to be changed."""
    return build_model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 320 tokens with Qwen2's ChatML template, default system prompt included."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a random model of 4 layers and the tiny tokenizer, as ``from_pretrained`` reads it."""
    path = tmp_path_factory.mktemp("model")
    build_model(layers=4).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def episode() -> Callable[..., TokenSequence]:
    """``episode(seed, turns)``: random tokens: ``size`` protected, then per turn ``size`` of observation, ``plan`` of plan."""

    def make(seed: int, turns: int = 4, size: int = 8, plan: int = 3) -> TokenSequence:
        ids = np.random.default_rng(seed).integers(3, 300, size + turns * (size + plan)).astype(np.int32)
        weights = np.array([0.3] * size + ([0.3] * size + [1.0] * plan) * turns, np.float32)
        numbers = np.array([-1] * size + [t for t in range(turns) for _ in range(size + plan)], np.int32)
        return TokenSequence(ids, weights, numbers)

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Test processes share the cores already (xdist); more threads each would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_settings() -> Iterator[None]:
    """The command line configures logging for its process, which here goes on with other tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path, for sockets: their paths have at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="er", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``fake_play``: episodes and backends that cost nothing, importable by worker processes too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("fake_play")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``places``: two devices where there is one."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("places")


@pytest.fixture
def small_house(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """``small_house(skill_fails=0.0)``: a house of two rooms that the test furnishes, with an agent that does single skills."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("small_house").SmallHouse


@pytest.fixture
def household(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """``household(**parameters)``: the id of a household of these parameters, registered for the test."""
    registration = importlib.import_module("envs.registration")
    ids: list[str] = []

    def register(**parameters: object) -> str:
        ids.append(f"ERecap/HouseholdTest{len(ids)}-v0")
        monkeypatch.setitem(registration.HOUSEHOLDS, ids[-1], parameters)
        registration.register_all()
        return ids[-1]

    yield register
    for env_id in ids:
        registration.gym.registry.pop(env_id)


@pytest.fixture
def players(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``players``: scripted and random planners, ``play`` for one episode, ``Tape`` for playing it back."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("players")


@pytest.fixture
def invoke() -> Callable[..., Any]:
    """``invoke(*arguments)`` runs the command line in this process."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def echo_planner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of a backend that answers prompts together, importable by worker processes too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("echo_planner")
