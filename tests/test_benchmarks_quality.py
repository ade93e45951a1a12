"""``erecap bench-quality``: texts and needles, the rows, continuing, and errors."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import erecap
from benchmarks.commands import bench_quality_study
from benchmarks.recipes.quality.cases import TextChoice, choose_texts
from benchmarks.recipes.quality.needles import draw_needles, needle_cases
from benchmarks.recipes.quality.study import QualityStudy
from benchmarks.recipes.quality.texts import read_plain, sentences
from erecap.engine.prefill import prefill
from erecap.first_stage.answers import answer_losses
from erecap.models.identity import identify
from erecap.models.kv_cache import CACHE_FIELD
from erecap.models.loading import bundled_texts, load_model
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import RandomSelector

FAST = ("--texts", 2, "--length", 128, "--needles", 2, "--max-new-tokens", 4, "--keep", "0.5", "--stages", "0+2")
TEXT = "You are in the hall. You see a red ball, a blue box. Put the ball in the box! Explore the kitchen. Pick up a key.\n" * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "mine.txt").write_text(TEXT)
    return tmp_path / "mine.txt"


@pytest.fixture
def pruner_dir(model_dir: str, tmp_path: Path) -> Path:
    TokenPruner(load_model(model_dir, "float32", "cpu").identity, (0, 2)).save_pretrained(tmp_path / "pruner")
    return tmp_path / "pruner"


def rows_of(done: Any) -> list[dict[str, Any]]:
    assert done.exit_code == 0, (done.output, done.exception)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["rows"]
    return rows


def test_the_table_compares_selectors_and_a_pruner_with_no_pruning(invoke, model_dir, text, pruner_dir, tmp_path):
    out = tmp_path / "out"
    done = invoke("bench-quality", "--model", model_dir, "--pruner", pruner_dir, "--text", text, *FAST, "--out", out)
    rows = rows_of(done)
    assert [row["selector"] for row in rows] == ["unpruned", "learned", "attention", "random", "recency"]
    assert (rows[0]["kept_share"], rows[0]["final_share"], rows[0]["agreement"]) == (1.0, 1.0, 1.0)
    assert all(0.2 < row["final_share"] < row["kept_share"] < 1.0 for row in rows[1:])
    assert all(math.isfinite(row["perplexity"]) and row["needles"] == 2 for row in rows)
    assert len({row["perplexity"] for row in rows}) == 5
    content = json.loads((out / "quality.json").read_text())
    assert content["complete"]
    assert [len(row["answers"]) for row in content["rows"]] == [2] * 5
    table = (out / "quality.md").read_text()
    assert "| unpruned | 1 | 100.0% | 100.0% |" in table
    assert "of the last 25% of each text" in table


def test_the_perplexity_is_that_of_the_last_quarter_after_a_stock_prefix(model_dir, text):
    loaded = load_model(model_dir, "float32", "cpu")
    cases = choose_texts(TextChoice((text,), pieces=2, length=128, needles=0), loaded)
    study = QualityStudy(loaded, None, "", cases, ("mine.txt",), ("random",), (PruneSchedule.after([0, 2], 0.5),), 4)
    result = study.run(text.parent / "q.json", lambda _: None, lambda *_: None)
    losses = []
    for case in cases.texts:
        whole = torch.tensor([[*case.prompt.input_ids.tolist(), *case.answer]])
        assert len(case.answer) == round(whole.shape[1] / 4)
        logits = loaded.model(whole).logits[0, len(case.prompt) - 1 : -1]
        losses.append(functional.cross_entropy(logits, torch.tensor(case.answer), reduction="none"))
    unpruned = result.rows[0]
    assert unpruned.perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)
    pruned = []
    for case in cases.texts:  # the drop-in agrees: the prefix pruned, the rest behind it
        with erecap.pruned(loaded.model, None, study.schedules[0], RandomSelector()):
            first = loaded.model(torch.tensor([case.prompt.input_ids.tolist()]), use_cache=True)
            rest = loaded.model(torch.tensor([case.answer[:-1]]), **{CACHE_FIELD: first[CACHE_FIELD]})
        logits = torch.cat([first.logits[:, -1], rest.logits[0]])
        pruned.append(functional.cross_entropy(logits, torch.tensor(case.answer), reduction="none"))
    assert result.rows[1].perplexity == pytest.approx(float(torch.cat(pruned).mean().exp()), rel=1e-4)


def test_a_long_answer_has_the_same_loss_in_parts(make_model, monkeypatch):
    model, rng = make_model(4), np.random.default_rng(0)
    prompt, answer = TokenizedPrompt.from_ids(rng.integers(3, 300, 60)), tuple(rng.integers(3, 300, 30).tolist())
    schedule = PruneSchedule.after([0, 2], 0.5)
    whole = answer_losses(model, prefill(model, prompt, schedule, RandomSelector()), answer)
    monkeypatch.setattr("erecap.first_stage.answers.PART", 7)
    parts = answer_losses(model, prefill(model, prompt, schedule, RandomSelector()), answer)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_a_stopped_run_goes_on_and_other_rows_are_added(invoke, model_dir, text, tmp_path, monkeypatch):
    command = ("bench-quality", "--model", model_dir, "--text", text, *FAST, "--out", tmp_path / "out")
    rows, measure = [], QualityStudy._row

    def stop_at_the_third(study: QualityStudy, *rest: Any) -> Any:
        if len(rows) == 2:
            raise KeyboardInterrupt
        rows.append(measure(study, *rest))
        return rows[-1]

    monkeypatch.setattr(QualityStudy, "_row", stop_at_the_third)
    stopped = invoke(*command)
    assert stopped.exit_code == 130
    assert [row["selector"] for row in json.loads(stopped.stdout.splitlines()[-1])["rows"]] == ["unpruned", "attention"]
    measured = []
    monkeypatch.setattr(QualityStudy, "_row", lambda study, *rest: measured.append(measure(study, *rest)) or measured[-1])
    assert [row["selector"] for row in rows_of(invoke(*command))] == ["unpruned", "attention", "random", "recency"]
    assert [row.selector for row in measured] == ["random", "recency"]
    more = rows_of(invoke(*command, "--selector", "key-norm", "--keep", "0.9"))
    assert [(row["selector"], row["keep"]) for row in more][-1] == ("key-norm", 0.9)
    assert len(measured) == 3
    other = invoke(*command, "--seed", 5)
    assert "holds another study: " in str(other.exception)


def test_shares_are_solved_for_and_the_sample_needs_no_text(invoke, model_dir, tmp_path):
    fast = ("--texts", 1, "--length", 256, "--needles", 1, "--max-new-tokens", 2, "--stages", "0-2", "--selector", "recency")
    rows = rows_of(invoke("bench-quality", "--model", model_dir, *fast, "--share", "0.8,0.6", "--out", tmp_path / "out"))
    assert [row["keep"] for row in rows] == [1.0, *(PruneSchedule.of_share("0-2", 4, share).stages[0].keep for share in (0.8, 0.6))]
    assert rows[1]["kept_share"] == pytest.approx(0.8, abs=0.02)
    assert rows[2]["kept_share"] == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "config"), [(LlamaForCausalLM, LlamaConfig), (MistralForCausalLM, MistralConfig), (Qwen3ForCausalLM, Qwen3Config)]
)
def test_every_family_can_be_measured(tmp_path, text, tokenizer, kind: type[PreTrainedModel], config: Callable[..., Any]):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings = config(vocab_size=320, max_position_embeddings=512, sliding_window=None, head_dim=16, **sizes)
    torch.manual_seed(0)
    kind(settings).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), "float32", "cpu")
    cases = choose_texts(TextChoice((text,), pieces=1, length=128, needles=1), loaded)
    pruner = TokenPruner(identify(loaded.model), (0, 1))
    study = QualityStudy(loaded, pruner, "w", cases, (), ("learned", "attention"), (PruneSchedule.after([0, 1], 0.6),), 3)
    rows = study.run(tmp_path / "q.json", lambda _: None, lambda *_: None).rows
    assert [row.selector for row in rows] == ["unpruned", "learned", "attention"]
    assert all(math.isfinite(row.perplexity) for row in rows)


def test_needles_are_hidden_at_rising_depths_and_asked_for_at_the_end(tokenizer):
    needles = draw_needles(4, seed=0)
    assert [needle.depth for needle in needles] == [0.125, 0.375, 0.625, 0.875]
    assert len({needle.key for needle in needles}) == 4
    cases = needle_cases(needles, sentences([TEXT]), tokenizer, 300, seed=0)
    for needle, case in zip(needles, cases, strict=True):
        shown = tokenizer.decode(case.prompt.input_ids)
        assert shown.count(needle.sentence) == 1
        assert shown.endswith(f"{needle.question}<|im_end|>\n<|im_start|>assistant\n{needle.beginning}")
        assert tokenizer.decode(case.answer) == f" {needle.value}"
        assert shown.index(needle.sentence) / len(shown) == pytest.approx(needle.depth, abs=0.25)
    again = needle_cases(needles, sentences([TEXT]), tokenizer, 300, seed=0)
    assert [case.prompt.input_ids.tolist() for case in again] == [case.prompt.input_ids.tolist() for case in cases]


def test_a_needle_is_found_where_the_answer_holds_its_value(model_dir, text, monkeypatch):
    loaded = load_model(model_dir, "float32", "cpu")
    cases = choose_texts(TextChoice((text,), pieces=1, length=64, needles=2), loaded)
    right = tuple(loaded.tokenizer(f" {cases.needles[0].value}.", add_special_tokens=False)["input_ids"])

    def answer(loaded: Any, case: Any, *rest: Any) -> Any:
        made = real(loaded, case, *rest)
        return type(made)(made.loss, right, made.layer_tokens, made.kv_bytes)

    from benchmarks.recipes.quality import study as module

    real = module.answer_case
    monkeypatch.setattr(module, "answer_case", answer)
    study = QualityStudy(loaded, None, "", cases, (), ("random",), (PruneSchedule.after([0], 0.5),), 2)
    assert [row.found for row in study.run(text.parent / "q.json", lambda _: None, lambda *_: None).rows] == [(True, False)] * 2


def test_without_a_chat_template_all_is_plain_text(tokenizer):
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    needle = draw_needles(1, 0)
    (case,) = needle_cases(needle, sentences([TEXT]), plain, 100, seed=0)
    assert plain.decode(case.prompt.input_ids).endswith(f"\n\n{needle[0].question}\n{needle[0].beginning}")


def test_texts_are_read_as_plain_text(tmp_path):
    assert read_plain(bundled_texts()).startswith("The cottage has two floors.")
    divided = ["Three " + "four " * 38 + "four", "four " * 10 + "four"]
    assert sentences(["One. Two!\nThree " + "four " * 50]) == ["One.", "Two!", *divided]
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1: neither 'messages' nor a text under 'response'"):
        read_plain(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "nowhere.txt"), "nowhere.txt is no file of texts"),
        (("--share", "0.5", "--keep", "0.5"), "give one of --share and --keep"),
        (("--share", "half"), "share='half' must be numbers separated by commas"),
        (("--share", "1.5"), "different numbers between 0 and 1"),
        (("--selector", "learned"), "there is none for this model: give --pruner DIR"),
        (("--selector", "best"), "must name different selectors of learned"),
        (("--length", "8"), "pieces of 64 tokens or more"),
        (("--length", "2000"), "exceed the model's 1024 positions"),
        (("--needles", "-1"), "needles=-1 must be from 0 to 100"),
        (("--stages", "9"), "does not fit a model of 4 layers"),
    ],
)
def test_wrong_options_are_refused(invoke, model_dir, tmp_path, options, message):
    done = invoke("bench-quality", "--model", model_dir, "--out", tmp_path / "out", *options)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_stages_that_the_pruner_lacks_are_named():
    options = bench_quality_study.QualityOptions(TextChoice(()), "m", Path("p"), None, None, None, None, None, None)
    assert [one.layers for one in options.schedules(8, (0, 3, 5))] == [(0, 3, 5)] * 2
    seeds = options.schedules(28, tuple(range(27)))
    assert seeds[0].layers == tuple(range(4, 26, 3))
    asked = bench_quality_study.QualityOptions(TextChoice(()), "m", Path("p"), None, None, None, "0+4", None, None)
    with pytest.raises(ValueError, match=r"stages='0\+4' are not all among the pruner's, 0\+3\+5"):
        asked.schedules(8, (0, 3, 5))
