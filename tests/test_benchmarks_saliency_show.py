"""`erecap saliency show`: prompts, statistics, the picture, and the commands around it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from PIL import Image
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.recipes.planner.dataset import chat_messages
from benchmarks.recipes.sequences import read_transcripts
from benchmarks.token_views.page import NEWLINE, lay_out_page
from benchmarks.token_views.picture import choose_stages, picture, verdict_palette
from benchmarks.token_views.saliency_stats import saliency_statistics
from benchmarks.token_views.sources import of_file, of_run, of_sample
from benchmarks.token_views.view import GUARDED, KEPT, TokenView, token_texts, view
from erecap.engine.differentiable import stage_hidden
from erecap.engine.prefill import prefill
from erecap.models.loading import LoadedModel, load_model, load_pruner
from erecap.models.pruner import TokenPruner
from erecap.selectors import LearnedSelector
from erecap.training.batches import collate
from erecap.training.encoding import encode_episode
from erecap.training.saliency import SaliencySettings, collect_saliency, compute_saliency
from erecap.training.saliency_file import SaliencySet
from erecap.training.sequences import SequenceList, TokenSequence

STAGES = (0, 1)
EpisodeMaker = Callable[..., TokenSequence]


@pytest.fixture(scope="module")
def loaded(model_dir: str) -> LoadedModel:
    return load_model(model_dir, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pruner_dir(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruner")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        TokenPruner(loaded.identity, STAGES).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pruner(loaded: LoadedModel, pruner_dir: Path) -> TokenPruner:
    return load_pruner(pruner_dir, loaded)


@pytest.fixture(scope="module")
def file(loaded: LoadedModel, episode: EpisodeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saliency") / "s.safetensors"
    collect_saliency(loaded.model, SequenceList([episode(n, turns=6) for n in range(3)]), SaliencySettings(STAGES), out)
    return out


@pytest.fixture(scope="module")
def found(loaded: LoadedModel, file: Path) -> SaliencySet:
    return SaliencySet(file, loaded.identity)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    options = ["--backend", "expert", "--suite", "smoke", "--episodes", "1", "--training-seeds", "--out", str(out)]
    assert CliRunner().invoke(cli.app, ["run", *options]).exit_code == 0
    return out


# ---- which prompt ----------------------------------------------------------------------------------------------------


def test_a_sample_is_the_prompt_of_its_last_replan(found: SaliencySet, episode: EpisodeMaker):
    subject, whole = of_sample(found, 1), episode(1, turns=6)
    assert subject.prompt.input_ids.tolist() == whole.input_ids[:-3].tolist()
    assert np.flatnonzero(subject.prompt.protected).tolist() == [*range(8), *range(len(whole) - 11, len(whole) - 3)]
    assert all(np.array_equal(subject.saliency[s], found[1][row][:-3], equal_nan=True) for row, s in enumerate(STAGES))


def test_a_recorded_replan_has_the_saliency_of_its_answer(loaded: LoadedModel, run_dir: Path):
    subject = of_run(loaded, run_dir, episode=0, replan=2, stages=STAGES)
    sample = next(read_transcripts(run_dir / "steps.jsonl"))
    chat = chat_messages(sample)
    plans = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
    sequence = encode_episode(loaded.tokenizer, chat[: plans[2] + 1])
    wanted = compute_saliency(loaded.model, collate([sequence]), SaliencySettings(STAGES, replans=1))[:, 0].numpy()
    length = len(subject.prompt)
    assert subject.prompt.input_ids.tolist() == sequence.input_ids[:length].tolist()
    free = ~subject.prompt.protected  # a training sample also credits the plan carried out last, for later replans
    for row, stage in enumerate(STAGES):
        np.testing.assert_allclose(subject.saliency[stage][free], wanted[row, :length][free], rtol=1e-3, atol=1e-9)
    assert np.isnan(subject.saliency[0][subject.prompt.protected]).all()


def test_the_first_replan_has_nothing_to_drop(loaded: LoadedModel, pruner: TokenPruner, run_dir: Path):
    shown = view(loaded, of_run(loaded, run_dir, 0, 0, STAGES), pruner, 0.7)
    assert shown.pruning is not None
    assert set(shown.pruning.verdicts.tolist()) == {GUARDED}
    assert np.isnan(shown.saliency[0]).all()
    picture(shown)


def test_a_text_is_one_message_and_a_chat_may_end_with_its_answer(loaded: LoadedModel, tmp_path: Path):
    plain, chat, answered = tmp_path / "p.txt", tmp_path / "c.json", tmp_path / "a.json"
    plain.write_text("Put the ball in the box!\n")
    asked = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Put the ball in the box!"}]
    chat.write_text(json.dumps(asked))
    answered.write_text(json.dumps([*asked, {"role": "assistant", "content": "goto kitchen"}]))
    text, own, given_answer = (of_file(loaded, path, STAGES) for path in (plain, chat, answered))
    assert ["greedy" in subject.title for subject in (text, own, given_answer)] == [True, True, False]
    assert "ball in the box!<|im_end|>" in loaded.tokenizer.decode(text.prompt.input_ids)
    assert not text.prompt.protected[: text.prompt.segment_ends[-1]].any()
    assert own.prompt.input_ids.tolist() == given_answer.prompt.input_ids.tolist()
    free = ~own.prompt.protected
    assert np.isnan(own.saliency[0][~free]).all()
    assert (own.saliency[0][free] != given_answer.saliency[0][free]).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no list of chat messages"),
        ('[{"role": "robot", "content": "x"}]', "no list of chat messages"),
        ('[{"role": "assistant", "content": "x"}]', "no message to answer"),
    ],
)
def test_a_bad_chat_is_refused(loaded: LoadedModel, tmp_path: Path, text: str, message: str):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        of_file(loaded, path, STAGES)


# ---- what the engine does --------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_tokens_read_as_the_text_does(tokenizer: PreTrainedTokenizerFast, text: str):
    ids = tokenizer("<|im_start|>" + text)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_drawn_verdicts_are_the_engine_s(loaded: LoadedModel, pruner: TokenPruner, found: SaliencySet, keep: float):
    subject = of_sample(found, 0)
    shown = view(loaded, subject, pruner, keep)
    assert shown.pruning is not None
    result = prefill(loaded.model, subject.prompt, shown.pruning.schedule, LearnedSelector(pruner, shown.pruning.schedule))
    first, second = (set(stage.positions[0].tolist()) for stage in result.stages)
    palette, page = verdict_palette(shown.pruning), lay_out_page(shown.texts, 100, 600)
    drawn = [to_hex(face) for face in boxes(picture(shown), "verdict").get_facecolors()]
    pieces = [piece for piece in page.pieces if piece.token >= 0]
    assert len(drawn) == len(pieces)
    assert len(set(drawn)) >= 3
    for color, piece in zip(drawn, pieces, strict=True):
        stage = 0 if piece.token not in first else 1 if piece.token not in second else None
        allowed = {palette[KEPT], palette[GUARDED]} if stage is None else {palette[stage]}
        assert color.upper() in {name.upper() for name in allowed}
    assert all(shown.pruning.verdicts[subject.prompt.protected] == GUARDED)


def boxes(figure, heading: str) -> PolyCollection:
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(heading)]
    (found,) = [child for child in axes.collections if isinstance(child, PolyCollection)]
    return found


def test_scores_are_those_of_the_tokens_that_reach_a_stage(loaded: LoadedModel, pruner: TokenPruner, found: SaliencySet):
    subject = of_sample(found, 0)
    pruning = view(loaded, subject, pruner, 0.5).pruning
    assert pruning is not None
    with torch.no_grad():
        (stream,), _ = stage_hidden(loaded.model, torch.from_numpy(subject.prompt.input_ids)[None], (0,))
        np.testing.assert_allclose(pruning.scores[0], pruner(stream, 0)[0].numpy(), atol=1e-5)
    assert np.array_equal(np.isnan(pruning.scores[1]), pruning.verdicts == 0)


# ---- the page --------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="ab \n", max_size=30), max_size=40), st.integers(20, 30), st.integers(2, 50))
def test_a_page_holds_every_shown_token_in_order_and_within_its_width(texts: list[str], columns: int, max_tokens: int):
    page = lay_out_page(texts, columns, max_tokens)
    assert page.left_out == max(0, len(texts) - max_tokens)
    assert all(piece.column + len(piece.text) <= max(page.columns, columns) for piece in page.pieces)
    read: dict[int, str] = {}
    for piece in page.pieces:
        read[piece.token] = read.get(piece.token, "") + piece.text
    shown = {number: text for number, text in read.items() if number >= 0}
    assert all(text.replace(NEWLINE, "\n") == texts[number] for number, text in shown.items())
    places = [(piece.line, piece.column + step) for piece in page.pieces for step in range(len(piece.text))]
    assert places == sorted(set(places))
    assert (-1 in read) == bool(page.left_out)


def test_the_middle_of_a_long_prompt_is_left_out_with_a_note():
    page = lay_out_page([f" {n}" for n in range(100)], 40, 10)
    shown = [piece.token for piece in page.pieces]
    assert shown == [0, 1, 2, -1, *range(93, 100)]
    assert "90 tokens left out" in page.pieces[3].text


def test_stages_of_the_picture(found: SaliencySet, loaded: LoadedModel, pruner: TokenPruner):
    many = TokenView("", ("a",), {stage: np.zeros(1, np.float32) for stage in range(6)})
    assert choose_stages(many) == (0, 3, 5)
    assert choose_stages(many, (2,)) == (2,)
    with pytest.raises(ValueError, match=r"after layers \[9\] are not known here: choose from 0, 1, 2"):
        choose_stages(many, (9,))
    shown = view(loaded, of_sample(found, 0), pruner, 0.5)
    titles = [axes.get_title(loc="left") for axes in picture(shown, (1,)).axes]
    verdict = "verdict, at keep 0.5 of the current length per stage"
    assert titles[:3] == ["saliency after layer 1", verdict, "pruner score after layer 1"]


def test_colours_follow_the_ranks():
    values = np.array([np.nan, 1e-6, 1.0, 1e-3], np.float32)
    figure = picture(TokenView("t", ("a", "b", "c", "d"), {0: values}))
    brightness = boxes(figure, "saliency after").get_facecolors()[:, :3].sum(1)
    assert brightness.argsort().tolist() == [2, 3, 1, 0]
    assert brightness[0] == 3


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_of_the_tokens_that_have_saliency(found: SaliencySet, loaded: LoadedModel):
    first, last = saliency_statistics(found, loaded)
    values = np.concatenate([row[0][~np.isnan(row[0])] for row in (found[n] for n in range(3))])
    assert (first.after_layer, first.tokens) == (0, len(values))
    assert first.mean == pytest.approx(values.mean())
    assert first.max == pytest.approx(values.max())
    assert 0.1 < first.carried <= 1
    assert 0 < (first.next_rank or 0) < 1
    assert [last.next_rank, first.pruner_rank, first.pruner_top] == [None] * 3


def test_a_pruner_that_scores_by_saliency_agrees_with_it_entirely(found: SaliencySet, loaded: LoadedModel, pruner: TokenPruner):
    class Oracle:
        stages = (1,)

        def __call__(self, stream: torch.Tensor, stage: int) -> torch.Tensor:
            return torch.from_numpy(next(self.rows)).nan_to_num()[None]

        rows = iter([found[n][1] for n in range(3)])

    first, second = saliency_statistics(found, loaded, Oracle())  # type: ignore[arg-type]
    assert first.pruner_rank is None
    assert (second.pruner_rank, second.pruner_top) == (pytest.approx(1), 1)
    random = saliency_statistics(found, loaded, pruner)[1]
    assert abs(random.pruner_rank or 1) < 0.6


# ---- commands --------------------------------------------------------------------------------------------------------


def test_from_data_to_a_picture_and_a_pruner(model_dir: str, pruner_dir: Path, tmp_path: Path):
    data, out, drawn = tmp_path / "d.jsonl", tmp_path / "s.safetensors", tmp_path / "p.png"
    lines = [{"instruction": f"Put the ball {n} in the box!", "response": "goto kitchen\ndone"} for n in range(4)]
    data.write_text("\n".join(map(json.dumps, lines)))
    where = ["--model", model_dir, "--data", str(data), "--num-samples", "3", "--max-length", "256"]
    made = invoke("saliency", *where, "--stages", "0-1", "--out", str(out))
    assert (made["samples"], made["stages"]) == (3, [0, 1])
    shown = invoke("saliency", "show", str(out), "--model", model_dir, "--pruner", str(pruner_dir), "--out", str(drawn))
    assert [stage["after_layer"] for stage in shown["stages"]] == [0, 1]
    assert all(stage["pruner_rank"] is not None for stage in shown["stages"])
    with Image.open(drawn) as image:
        assert image.width > 1000
    trained = ["--saliency", str(out), "--stages", "1", "--steps", "2", "--out", str(tmp_path / "pruner")]
    invoke("train-pruner", *where, *trained)
    assert TokenPruner.from_pretrained(tmp_path / "pruner" / "pruner").stages == (1,)


def invoke(*arguments: str) -> dict:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["saliency"], "give --data"),
        (["saliency", "show"], "nothing to show"),
        (["saliency", "show", "--run", "a", "--prompt", "b"], "one of --prompt and --run"),
        (["saliency", "show", "FILE", "--model", "MODEL", "--sample", "9"], "the samples are 0..2"),
        (["saliency", "show", "FILE"], "name the model that it was made with"),
        (["saliency", "show", "--model", "MODEL", "--run", "RUN", "--replan", "99"], "has the replans 0.."),
        (["saliency", "show", "--model", "MODEL", "--run", "RUN", "--episode", "1"], "played the episodes 0..0"),
        (["saliency", "show", "--model", "MODEL", "--run", "nowhere"], "made with `erecap run`"),
        (["saliency", "show", "--model", "MODEL", "--prompt", "nowhere"], "is no file"),
        (["saliency", "show", "FILE", "--model", "MODEL", "--stages", "3"], "choose from 0, 1"),
        (["saliency", "show", "FILE", "--model", "MODEL", "--columns", "3"], "at least 20 columns"),
    ],
)
def test_user_errors(monkeypatch, capsys, tmp_path, file, model_dir, run_dir, arguments, message):
    monkeypatch.chdir(tmp_path)
    known = {"FILE": str(file), "MODEL": model_dir, "RUN": str(run_dir)}
    monkeypatch.setattr(sys, "argv", ["erecap", *(known.get(argument, argument) for argument in arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
