"""One model on two processes with gloo: the same tokens as one process, rank 0 decides, and one that fails ends both."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from erecap import (
    DecodeOptions,
    PruneSchedule,
    SelectorContext,
    TokenizedPrompt,
    decode,
    load_model,
    load_pruner,
    make_selector,
    prefill,
)
from erecap.backend import make_backend
from erecap.distributed import ranks, watch
from erecap.distributed.board import Board
from erecap.distributed.launch import Launch, LaunchError
from erecap.distributed.ranks import agreed, current, joined
from erecap.distributed.tensor_parallel import UnevenRanksError, check_divides
from erecap.distributed.watch import DEAD_S, DISMISSED, FAILED, Watch
from erecap.models.identity import identify
from erecap.models.placement import PlacementOptions
from erecap.models.pruner import TokenPruner
from erecap.profiling.cli import main as profile
from planner import BackendSpec, Prompt, Sampling, Segment

STAGES = (1, 3, 5)
TOP_K = PruneSchedule.after(STAGES, 0.6)
RUNS = [
    *((name, TOP_K) for name in ("learned", "learned-steps", "random", "key-norm", "attention")),
    ("random", TOP_K.by_rule("threshold", (0.3, 0.4, 0.5))),
    ("random", TOP_K.by_rule("chunk_top_k")),
]
PROMPTS = [TokenizedPrompt.from_ids(np.random.default_rng(length).integers(3, 300, length)) for length in (120, 70)]


@pytest.fixture
def two_ranks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("two_ranks").run_on_ranks


@pytest.fixture(scope="module")
def divisible(tmp_path_factory, make_model, tokenizer):
    """A model with two KV heads in ``model``, its pruner in ``pruner``, and a Llama in ``llama``."""
    path = tmp_path_factory.mktemp("divisible")
    model = make_model(layers=8, heads=4, kv_heads=2)
    config = LlamaConfig(**{key: getattr(model.config, key) for key in ("vocab_size", "hidden_size", "intermediate_size")})
    config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 4, 2, 16
    config.initializer_range, config.max_position_embeddings = 64**-0.5, 1024
    torch.manual_seed(0)
    for name, made in (("model", model), ("llama", LlamaForCausalLM(config))):
        made.save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
    TokenPruner(identify(model), STAGES).save_pretrained(path / "pruner")
    return path


def answers(folder):
    """Identity of the model, and of every run the logits, kept positions, tokens and bytes of the cache."""
    loaded = load_model(str(folder / "model"), "float32")
    found = []
    for name, schedule in RUNS:
        context = SelectorContext(schedule, load_pruner(folder / "pruner", loaded), model=loaded.model)
        start = prefill(loaded.model, PROMPTS, schedule, make_selector(name, context))
        kept = [stage.positions.tolist() for stage in start.stages]
        found.append((start.logits.numpy(), kept, start.kv_bytes, list(decode(loaded.model, start, DecodeOptions(4)))))
    llama = load_model(str(folder / "llama"), "float32")
    found.append((prefill(llama.model, PROMPTS).logits.numpy(), [], 0, []))
    stock = make_backend(BackendSpec.parse(f"hf-generate?model={folder}/model&dtype=float32"))
    answer = stock.generate(Prompt((Segment("user", "Put the ball in the box!"),)), Sampling(8, ignore_eos=True))
    found.append((np.zeros(0), answer.token_ids, answer.kv_bytes, answer.layer_tokens))
    return loaded.identity, loaded.spread, found


def answers_on_ranks(folder):
    with joined():
        return answers(folder)


def test_two_ranks_keep_the_same_tokens_as_one_process(two_ranks, divisible, tmp_path, monkeypatch):
    monkeypatch.setattr("erecap.models.identity._HASHED_ANEW_BELOW", 0)  # as for a large model, whose hashes are remembered
    identity, spread, wanted = answers(divisible)
    assert spread == {}
    for ended in two_ranks(answers_on_ranks, divisible, folder=tmp_path):
        assert ended.code == 0, ended.err
        assert ended.value[:2] == (identity, {"tp_size": "2"})
        for (logits, *rest), (wanted_logits, *wanted_rest) in zip(ended.value[2], wanted, strict=True):
            np.testing.assert_allclose(logits, wanted_logits, atol=1e-5)
            assert rest == wanted_rest


class Contrary:
    """A selector whose scores differ between ranks."""

    def score(self, hidden, positions, stage_index, lengths):
        scores = torch.rand(positions.shape, generator=torch.Generator().manual_seed(stage_index))
        return scores if current().leads else -scores


def divided_opinions(folder):
    with joined() as own:
        loaded = load_model(str(folder / "model"), "float32")
        start = prefill(loaded.model, PROMPTS, TOP_K, Contrary())
        kept = [stage.positions.tolist() for stage in start.stages]
        drawn = list(decode(loaded.model, start, DecodeOptions(6, temperature=2.0, seed=own.rank)))
        return kept, drawn, agreed(own.rank)


def test_rank_0_decides_for_all(two_ranks, divisible, tmp_path):
    first, second = (ended.value for ended in two_ranks(divided_opinions, divisible, folder=tmp_path))
    assert first == second
    assert first[2] == 0


def refused(folder, name):
    with joined():
        if name == "heads":
            load_model(str(folder), "float32")
        elif name == "map":
            load_model(str(folder / "model"), placement=PlacementOptions(device_map="auto"))
        else:
            load_model(str(folder / "model"), device="cuda:0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heads", "num_key_value_heads=1 cannot be divided among 2 ranks: start 1 of them"),
        ("map", "device_map puts the layers of one process on several devices, and torchrun has started 2 processes"),
        ("device", "device='cuda:0' under torchrun, where each process has its own device, cpu here: leave it out"),
    ],
)
def test_what_ranks_cannot_do_is_refused_once(two_ranks, divisible, model_dir, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(ranks, "_LAST_WORD_S", 0.0)
    first, second = two_ranks(refused, Path(model_dir) if name == "heads" else divisible, name, folder=tmp_path)
    assert message in first.err
    assert (first.code, second.code, second.err) == (1, FAILED, "")


def trouble(folder, kind):
    """Rank 1 fails in its second prefill; rank 0 is by then in a collective operation with it."""
    with joined() as own:
        loaded = load_model(str(folder / "model"), "float32")
        for turn in range(3):
            if turn == 1 and not own.leads:
                if kind == "dies":
                    os._exit(9)
                raise {"user": ValueError, "bug": RuntimeError}[kind]("no plan can be made of this")
            prefill(loaded.model, PROMPTS)


@pytest.mark.parametrize(
    ("kind", "codes", "first", "second"),
    [
        ("user", (FAILED, 1), None, "RankError: rank 1: no plan can be made of this"),
        ("bug", (FAILED, 1), None, "RuntimeError: no plan can be made of this"),
        ("dies", (1, 9), "RankLostError: rank 0 has lost the connection to another rank", None),
    ],
)
def test_a_rank_that_fails_ends_the_other_which_says_nothing(
    two_ranks, divisible, tmp_path, monkeypatch, kind, codes, first, second
):
    monkeypatch.setattr(ranks, "_LAST_WORD_S", 0.0)
    monkeypatch.setattr(ranks, "_PATIENCE_S", 0.5)
    ended = two_ranks(trouble, divisible, kind, folder=tmp_path)
    assert tuple(one.code for one in ended) == codes
    for one, message in zip(ended, (first, second), strict=True):
        assert (message in one.err) if message else not one.err


def measured(folder, out, name, seconds):
    words = [name, "--model", folder / "model", "--pruner", folder / "pruner", "--lengths", "60,90", "--keep", "1,0.6"]
    words += ["--dtype", "float32", "--rounds", "1", "--seconds", seconds, "--out", out]
    words += ["--new-lengths", "1", "--no-stock"] if name == "prefill" else ["--new-tokens", "3"]
    return profile([str(word) for word in words])


@pytest.mark.parametrize(
    ("name", "seconds"), [pytest.param("prefill", 60, marks=pytest.mark.slow), ("prefill", 1e-6), ("generate", 60)]
)
def test_ranks_measure_together_and_rank_0_writes(two_ranks, divisible, tmp_path, name, seconds):
    depth_pruner = TokenPruner(identify(load_model(str(divisible / "model"), "float32").model), range(7))
    depth_pruner.save_pretrained(divisible / "pruner")
    first, second = two_ranks(measured, divisible, tmp_path / "out.json", name, seconds, folder=tmp_path)
    assert (first.value, second.value) == (0, 0), first.err + second.err
    assert (second.out, second.err) == ("", "")
    assert "written: " in first.out
    content = json.loads((tmp_path / "out.json").read_text())
    assert (content["parallel"], content["devices"], content["tp_size"]) == ("tensor", 2, 2)
    statuses = [point["status"] for point in content["points"]]
    assert [status[:8] for status in statuses] == ["left out" if seconds < 1 else "ok"] * 4
    tokens = content["points"][0]["prompt_tokens"]
    assert (
        name != "prefill" or seconds < 1 or content["points"][0]["kv_bytes"] == 8 * 2 * 2 * 16 * 4 * tokens
    )  # of both ranks together


def test_a_launch_is_read_from_what_torchrun_sets():
    given = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "here",
        "MASTER_PORT": "29500",
    }
    assert Launch.read(given) == Launch(3, 4, 1, 2, "here", 29500)
    assert Launch.read(given | {"TORCHELASTIC_RESTART_COUNT": "2"}).attempt == 2
    assert Launch.read(given | {"WORLD_SIZE": "1"}) is None
    assert Launch.read({"WORLD_SIZE": "4", "RANK": "0"}) is None


def test_fewer_gpus_than_ranks_are_an_error():
    launch = Launch(0, 8, 0, 8, "here", 1)
    with pytest.raises(LaunchError, match=r"8 processes were started on a machine with 4 CUDA devices.*--nproc-per-node 4"):
        launch.check_devices(4)
    launch.check_devices(0)  # on the CPU
    launch.check_devices(8)


def test_sizes_that_do_not_divide_name_the_numbers_that_do(make_model):
    config = make_model(layers=4, heads=4, kv_heads=2).config
    with pytest.raises(
        UnevenRanksError, match=r"num_attention_heads=4 and num_key_value_heads=2 and intermediate_size=128 .* 1 or 2"
    ):
        check_divides(config, 3)
    check_divides(config, 2)


class Store(dict):
    """A store as torch's, in this process."""

    def set(self, key, value):
        self[key] = value

    def get(self, key):
        return self[key].encode()

    def check(self, keys):
        return all(key in self for key in keys)

    def compare_set(self, key, expected, desired):
        if dict.get(self, key, "") == expected:
            self[key] = desired
        return self[key].encode()


def test_the_first_failure_stays_on_the_board():
    store = Store()
    first, second = Board(store, 1), Board(store, 0)
    assert second.failure() is None
    assert first.fail("no plan 1 2")
    assert not second.fail("connection closed")
    assert second.failure() == second.wait_for_failure(0.0) == (1, "no plan 1 2")
    assert Board(store, 0, attempt=1).failure() is None


@pytest.fixture
def watched():
    """A watch of rank 0 over ranks 1 and 2, and the store, the clock and the lines for the user."""
    store, clock, said = Store(), [0.0], []
    return Watch(Board(store, 0), (1, 2), clock=lambda: clock[0], say=said.append), store, clock, said


def test_a_watch_ends_the_process_when_another_rank_gives_no_sign_of_life(watched, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    look, store, clock, said = watched
    for beat in range(3):
        Board(store, 1).beat(beat)
        Board(store, 2).beat(beat)
        clock[0] += DEAD_S
        assert look.look() is None
    Board(store, 1).beat(9)
    clock[0] += DEAD_S + 1
    assert look.look() == FAILED
    assert said == [f"error: rank 2 has given no sign of life for {DEAD_S:.0f} seconds: all ranks end\n"]
    assert "rank 2 has given no sign of life" in json.loads((tmp_path / "error.json").read_text())["message"]["message"]


def test_a_watch_obeys_the_board(watched):
    look, store, _, said = watched
    assert look.look() is None
    Board(store, 0).dismiss()
    assert look.look() == DISMISSED
    Board(store, 2).fail("out of memory")
    assert look.look() == FAILED
    assert said == []  # the rank that failed says why


def test_a_watch_ends_the_process_when_the_launcher_is_gone(watched, monkeypatch):
    look, store, _, said = watched

    def gone(*_):
        raise torch.distributed.DistNetworkError("connection refused")

    monkeypatch.setattr(store, "set", gone, raising=False)
    assert look.look() == FAILED
    assert "the launcher does not answer" in said[0]


def test_a_process_that_does_not_leave_by_itself_is_ended(monkeypatch):
    monkeypatch.setattr(watch, "BEAT_S", 0.001)
    monkeypatch.setattr(watch, "GRACE_S", 0.001)
    store, codes = Store(), []
    own = Watch(Board(store, 0), (), leave=codes.append)
    Board(store, 1).fail("out of memory")
    own.start()
    own._thread.join(20)
    assert codes == [FAILED]
