"""The sources of a prompt to look at, with its saliency: a sample of a saliency file, a recorded replan, or any text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from agents.recorded_prompts import RecordedPrompt
from benchmarks.backends.registry import choose_reference
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.records import RunRecords
from erecap.backend import encode_prompt
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import ChatTokenizer, Message, TokenizedPrompt
from erecap.training.batches import collate
from erecap.training.saliency import SaliencySettings, compute_saliency
from erecap.training.saliency_file import SaliencySet
from erecap.training.sequences import ALWAYS_KEPT, OTHER_WEIGHT, PLAN_WEIGHT, Float32, TokenSequence

ANSWER_TOKENS = 64
"""Longest answer that the model decodes, in tokens, if the source has no answer."""


@dataclass(frozen=True)
class Subject:
    """A prompt and the saliency of its tokens.

    Attributes
    ----------
    title
        The prompt and the loss of its saliency, in words.
    prompt
        Tokens of the prompt.
    saliency
        Saliency by layer, float32 ``(tokens,)``, NaN for a token without.
    """

    title: str
    prompt: TokenizedPrompt
    saliency: dict[int, Float32]


class ChatMessage(BaseModel):
    """One message of a chat in a file.

    Attributes
    ----------
    role, content
        Role and text, as a chat template takes them.
    protected
        Whether no stage may drop its tokens; by default only those of system messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str
    protected: bool | None = None

    def as_message(self) -> Message:
        """Return the message as ``ChatTokenizer`` takes it."""
        return self.role, self.content, self.role == "system" if self.protected is None else self.protected


_CHAT = TypeAdapter(list[ChatMessage])


@dataclass(frozen=True)
class PromptSource:
    """The source of the prompt: a recorded replan if ``run`` is given, a file if ``prompt`` is given, else a sample.

    Attributes
    ----------
    sample
        Number of a sample in a saliency file.
    prompt
        A file with a prompt.
    run
        A run directory.
    episode, replan
        Numbers of the episode in the run and of the replan in the episode, from 0.
    """

    sample: int = 0
    prompt: Path | None = None
    run: Path | None = None
    episode: int = 0
    replan: int = 0


def find_subject(loaded: LoadedModel, source: PromptSource, found: SaliencySet | None, stages: Sequence[int]) -> Subject:
    """Find the prompt that ``source`` names.

    Parameters
    ----------
    loaded
        The model that saliency is computed with.
    source
        Source of the prompt.
    found
        Collected saliency; required for a sample.
    stages
        Layers after which saliency is computed, for the other sources.

    Raises
    ------
    ValueError
        For a prompt that does not exist.
    """
    if source.run is not None:
        return of_run(loaded, source.run, source.episode, source.replan, stages)
    if source.prompt is not None:
        return of_file(loaded, source.prompt, stages)
    assert found is not None, "a sample is looked up in collected saliency"
    return of_sample(found, source.sample)


def of_sample(found: SaliencySet, index: int) -> Subject:
    """Return the prompt of a sample's last replan, with the saliency in the file.

    Raises
    ------
    ValueError
        For a number out of range, and for a sample without saliency.
    """
    sample = found.sample(index)
    if not sample.plans.any():
        raise ValueError(f"sample={index} has no replan after its first, so that none of its tokens has saliency: choose another")
    turn = sample.turns[sample.plans].max()
    length = int(np.argmax(sample.plans & (sample.turns == turn)))
    turns = sample.turns[:length]
    prompt = TokenizedPrompt.from_ids(sample.input_ids[:length].astype(np.int64), (turns == ALWAYS_KEPT) | (turns == turn))
    title = f"sample {index}, the prompt of its last replan ({turn}); saliency: mean over sampled replans"
    return Subject(title, prompt, dict(zip(found.stages, sample.saliency[:, :length], strict=True)))


def of_run(loaded: LoadedModel, run: Path, episode: int, replan: int, stages: Sequence[int]) -> Subject:
    """Return a recorded replan of the run's reference backend, with the saliency of the recorded answer's loss.

    Parameters
    ----------
    loaded
        The model that saliency is computed with.
    run
        The run's directory.
    episode, replan
        Number of the episode, and of the replan in it, from 0.
    stages
        Layers after which saliency is taken.

    Raises
    ------
    ValueError
        For a directory without a run, and for an episode or a replan that does not exist.
    """
    recorded, chat = _find(run / STEPS_FILE, episode, replan), ChatTokenizer(loaded.tokenizer)
    prompt = encode_prompt(chat, recorded.prompt)
    title = f"{recorded.env_id}, seed {recorded.seed}, replan {replan}; saliency: of the recorded answer's loss"
    return Subject(title, prompt, _answered(loaded, prompt, _closed(chat, recorded.answer), stages))


def of_file(loaded: LoadedModel, path: Path, stages: Sequence[int]) -> Subject:
    """Return the prompt in a file, with the saliency of an answer's loss.

    The answer is the last message of the chat if its role is "assistant", else the model's greedy answer.

    Parameters
    ----------
    loaded
        The model that saliency is computed with.
    path
        Plain text, read as one user message, or a ``.json`` with a list of chat messages.
    stages
        Layers after which saliency is taken.

    Raises
    ------
    ValueError
        For a missing file, and for a file without a message to answer.
    """
    messages, chat = _read_chat(path), ChatTokenizer(loaded.tokenizer)
    answer = messages.pop().content if messages[-1].role == "assistant" else None
    prompt = chat.encode(message.as_message() for message in messages)
    tokens = _greedy(loaded, prompt) if answer is None else _closed(chat, answer)
    whose = "the model's own greedy answer" if answer is None else "the answer in the file"
    return Subject(f"{path.name}; saliency: of the loss of {whose}", prompt, _answered(loaded, prompt, tokens, stages))


def _find(steps: Path, episode: int, replan: int) -> RecordedPrompt:
    if not steps.is_file():
        raise ValueError(f"{steps} is not there: give the directory of a run, made with `erecap run` or `erecap compare`")
    records = RunRecords.read(steps)
    backend = choose_reference(sorted(records.backends))
    prompts = records.prompts(backend)
    episodes = list(dict.fromkeys((p.env_id, p.seed) for p in prompts))
    if not 0 <= episode < len(episodes):
        raise ValueError(f"episode={episode} is not there: backend {backend!r} played the episodes 0..{len(episodes) - 1}")
    found = [p for p in prompts if (p.env_id, p.seed) == episodes[episode]]
    if not 0 <= replan < len(found):
        raise ValueError(f"replan={replan} is not there: episode {episode} of {backend!r} has the replans 0..{len(found) - 1}")
    return found[replan]


def _read_chat(path: Path) -> list[ChatMessage]:
    if not path.is_file():
        raise ValueError(f"{path} is no file: give a text, or a .json with a list of chat messages")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [ChatMessage(role="user", content=text.strip())]
    try:
        messages = _CHAT.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{path} is no list of chat messages with role and content: {error.errors()[0]['msg']}") from error
    if not any(message.role != "assistant" for message in messages):
        raise ValueError(f"{path} holds no message to answer: give at least one of the role 'user'")
    return messages


def _closed(chat: ChatTokenizer, answer: str) -> NDArray[np.int64]:
    return np.append(chat.data_tokens(answer), chat.tokenizer.eos_token_id)


def _greedy(loaded: LoadedModel, prompt: TokenizedPrompt) -> NDArray[np.int64]:
    options = DecodeOptions(ANSWER_TOKENS, eos_ids=loaded.eos_ids)
    steps = decode(loaded.model, prefill(loaded.model, prompt), options)
    return np.array([token for (token,) in steps if token is not None], np.int64)


def _answered(loaded: LoadedModel, prompt: TokenizedPrompt, answer: NDArray[np.int64], stages: Sequence[int]) -> dict[int, Float32]:
    """Compute the saliency of the answer's loss for the prompt's tokens; protected ones have none."""
    ids = np.concatenate([prompt.input_ids, answer])
    last = np.arange(len(ids)) >= len(prompt)
    turns = last.astype(np.int32)
    turns[: len(prompt)][prompt.protected] = ALWAYS_KEPT
    weights = np.where(last, PLAN_WEIGHT, OTHER_WEIGHT).astype(np.float32)
    sequence = TokenSequence(ids.astype(np.int32), weights, turns)
    settings = SaliencySettings(tuple(stages), replans=1)
    values = compute_saliency(loaded.model, collate([sequence]).to(loaded.device), settings)[:, 0, : len(prompt)]
    return dict(zip(stages, values.numpy(), strict=True))
