"""The stages of the recipe. Each leaves its result on disk and is skipped where that is there, so that a stopped run goes on.

round0/*.jsonl -> tokenizer/ -> shards0/ -> train0/model -> round1/*.jsonl -> shards1/ -> train1/model -> ...
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from benchmarks.backends.registry import BackendFactory
from benchmarks.recipes.planner.collect import Chunk, ChunkStats, chunks, collect
from benchmarks.recipes.planner.config import Recipe
from benchmarks.recipes.planner.dataset import encode, encode_lessons, make_tokenizer
from erecap.training.data import Batches, ShardedSequences, length_curriculum
from erecap.training.initialization import initialize_lookup
from erecap.training.planner import TrainConfig, planner_config, train_planner

StepHook = Callable[[Mapping[str, Any]], None]


class Reporter(Protocol):
    """Where the stages say how far they are."""

    def begin(self, stage: str, total: float) -> None:
        """A stage of ``total`` units begins."""

    def advance(self, units: float = 1, note: str = "") -> None:
        """So many units are done."""


@dataclass(frozen=True)
class Stages:
    """The recipe bound to a directory."""

    recipe: Recipe
    root: Path
    workers: int
    reporter: Reporter

    def model_dir(self, round_: int) -> Path:
        """Model and tokenizer after round ``round_`` (0: the expert's demonstrations)."""
        return self.root / f"train{round_}" / "model"

    def run(self) -> Path:
        """All stages; the directory of the trained model."""
        for round_ in range(len(self.recipe.rounds)):
            if not self.is_trained(round_):
                self.train(round_, self.demonstrations(round_))
        return self.model_dir(len(self.recipe.rounds) - 1)

    def is_trained(self, round_: int) -> bool:
        """Whether the round's model is finished."""
        return (self.model_dir(round_) / "tokenizer.json").exists()

    def demonstrations(self, round_: int) -> list[Path]:
        """Play the round's episodes: the expert's first, the student's (labelled by the expert) afterwards."""
        recipe = self.recipe
        student = f"baseline?model={self.model_dir(round_ - 1)}" if round_ else ""
        played = recipe.rounds[round_]
        todo = chunks(
            played.sources,
            self.root / f"round{round_}",
            round_=round_,
            noise=0.0 if round_ else recipe.noise,
            corrections=played.corrections,
            student=student,
            share=recipe.student_share if round_ else 0.0,
        )
        self.reporter.begin(f"round {round_}: play", sum(chunk.episodes for chunk in todo))
        collect(todo, BackendFactory(1), self.workers, self._on_chunk)
        return [chunk.path for chunk in todo]

    def _on_chunk(self, chunk: Chunk, stats: ChunkStats) -> None:
        note = f"{stats.env_id}: {stats.successes}/{stats.episodes} succeed, {stats.agreed}/{stats.plans} plans as the expert's"
        self.reporter.advance(stats.episodes, note)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, built from the expert's demonstrations."""
        return make_tokenizer(sorted((self.root / "round0").glob("*.jsonl")), self.root / "tokenizer", self.recipe.vocabulary)

    def sequences(self, round_: int, paths: list[Path], tokenizer: PreTrainedTokenizerBase) -> ShardedSequences:
        """The round's tokens."""
        self.reporter.begin(f"round {round_}: encode", len(paths))
        shards, in_place = self.root / f"shards{round_}", self.recipe.rounds[round_].in_place
        return encode(paths, tokenizer, shards, self.recipe.max_tokens, lambda path: self.reporter.advance(), in_place)

    def train(self, round_: int, paths: list[Path]) -> None:
        """Train on the round's demonstrations; later rounds go on from the last model, on every student and part of the expert."""
        recipe, tokenizer = self.recipe, self.tokenizer()
        shards = [path for r in range(1, round_) for path in self.sequences(r, self._paths(r), tokenizer).paths]
        shards += self.sequences(round_, paths, tokenizer).paths
        if not round_ and recipe.lessons:
            shards.append(encode_lessons(recipe.lessons, recipe.seed, tokenizer, self.root / "lessons"))
        if round_:
            shards += self.sequences(0, self._paths(0)[:: recipe.rehearsal], tokenizer).paths
        data = ShardedSequences(shards)
        minutes = recipe.rounds[round_].minutes
        curriculum = None if round_ else length_curriculum(recipe.shortest, recipe.max_tokens, 0.6)
        batches = Batches(data, recipe.token_budget, seed=recipe.seed + round_, curriculum=curriculum)
        config = TrainConfig(
            budget_s=60 * minutes,
            lr=recipe.dagger_learning_rate if round_ else recipe.learning_rate,
            betas=(0.9, 0.99),  # updates are small, and their squares noisy
            decay=1.0 if round_ else 0.3,
            seed=recipe.seed,
        )
        self.reporter.begin(f"round {round_}: train", 60 * minutes)
        model = self._model(round_, tokenizer)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        train_planner(model, batches, config, self.root / f"train{round_}", on_step=self._step_hook())
        tokenizer.save_pretrained(self.model_dir(round_))

    def _paths(self, round_: int) -> list[Path]:
        return sorted((self.root / f"round{round_}").glob("*.jsonl"))

    def _model(self, round_: int, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
        if round_:
            return Qwen2ForCausalLM.from_pretrained(self.model_dir(round_ - 1), dtype=torch.float32)
        torch.manual_seed(self.recipe.seed)
        model = Qwen2ForCausalLM(planner_config(len(tokenizer), tokenizer=tokenizer))
        initialize_lookup(model, seed=self.recipe.seed)
        return model

    def _step_hook(self) -> StepHook:
        done = 0.0

        def hook(record: Mapping[str, Any]) -> None:
            nonlocal done
            loss, accuracy, rate = (record[name] for name in ("plan_loss", "plan_accuracy", "tokens_per_s"))
            note = f"plan loss {loss:.3f}, accuracy {accuracy:.3f}, {rate:.0f} tokens/s"
            self.reporter.advance(record["elapsed_s"] - done, note)
            done = record["elapsed_s"]

        return hook


def training_log(root: Path, rounds: int) -> list[dict[str, Any]]:
    """The records of all rounds, each with its ``round``."""
    found: list[dict[str, Any]] = []
    for round_ in range(rounds + 1):
        path = root / f"train{round_}" / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found += [{**json.loads(line), "round": round_} for line in lines]
    return found
