"""The stages of the planner's recipe. A stage whose result is on disk is skipped, so a stopped run continues.

round0/*.jsonl -> tokenizer/ -> shards0/ -> train0/model -> round1/*.jsonl -> shards1/ -> train1/model -> ...
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2ForCausalLM

from benchmarks.backends.registry import BackendFactory
from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.collect import Chunk, ChunkStats, RoundPlay, chunks, play_chunks
from benchmarks.recipes.planner.config import Recipe
from benchmarks.recipes.planner.dataset import Encoding, encode, encode_lessons, make_tokenizer
from erecap.models.loading import bundled_planner_dir
from erecap.training.batches import Batches, length_curriculum
from erecap.training.config import TrainConfig, planner_config
from erecap.training.graph_steps import SIZES
from erecap.training.initialization import initialize_lookup
from erecap.training.loop import Hooks, TrainRecord
from erecap.training.sequences import ShardedSequences
from erecap.training.train_planner import train_planner

_PLAYED = "played.json"
"""Names of a round's files. It ends the playing: a chunk that was left out stays out, also when the run continues."""


class Reporter(Protocol):
    """A receiver of the progress of the stages."""

    def begin(self, stage: str, total: float) -> None:
        """Begin a stage of ``total`` units."""

    def advance(self, units: float = 1, note: str = "") -> None:
        """Count ``units`` more as done."""

    def reach(self, done: float, note: str = "") -> None:
        """Set the units that are done to ``done``."""


@dataclass(frozen=True)
class Stages:
    """The stages of a recipe in a run directory.

    Attributes
    ----------
    recipe
        The recipe.
    root
        Directory of the run.
    workers
        Number of processes that play episodes.
    reporter
        Gets the progress.
    """

    recipe: Recipe
    root: Path
    workers: int
    reporter: Reporter

    def model_dir(self, round_: int) -> Path:
        """Return the directory of model and tokenizer after round ``round_`` (0: the expert's demonstrations)."""
        return self.root / f"train{round_}" / "model"

    def run(self) -> Path:
        """Run all stages; return the directory of the trained model."""
        for round_ in range(len(self.recipe.rounds)):
            if not self._is_trained(round_):
                self._train(round_, self._demonstrations(round_))
        return self.model_dir(len(self.recipe.rounds) - 1)

    def _is_trained(self, round_: int) -> bool:
        """Tell whether the round's model is finished."""
        return (self.model_dir(round_) / "tokenizer.json").exists()

    def _demonstrations(self, round_: int) -> list[Path]:
        """Play the round's episodes and return the files of their samples. The expert plays round 0, the student the others."""
        folder = self.root / f"round{round_}"
        todo = chunks(self.recipe.rounds[round_].sources, self._how(round_), folder, self.recipe.skip_seeds)
        self.reporter.begin(f"round {round_}: play", sum(chunk.episodes for chunk in todo))
        if not (folder / _PLAYED).exists():
            seconds = 60 * self.recipe.play_minutes if round_ and self.recipe.play_minutes is not None else None
            done = play_chunks(todo, BackendFactory(1), self.workers, self._on_chunk, seconds)
            if not done:
                raise ValueError(f"round {round_}: no chunk of episodes was finished in {seconds} s: raise play_minutes")
            write_atomically(folder / _PLAYED, json.dumps([chunk.path.name for chunk in done]) + "\n")
        return self._paths(round_)

    def _how(self, round_: int) -> RoundPlay:
        corrections = self.recipe.rounds[round_].corrections
        if not round_:
            return RoundPlay(0, self.recipe.noise, corrections, stubbornness=self.recipe.stubbornness)
        student = f"baseline-session?model={self.model_dir(round_ - 1)}&device=cpu"  # many processes would wait for a GPU
        return RoundPlay(round_, 0.0, corrections, student, self.recipe.student_share)

    def _on_chunk(self, chunk: Chunk, stats: ChunkStats) -> None:
        note = f"{stats.env_id}: {stats.successes}/{stats.episodes} succeed, {stats.agreed}/{stats.plans} plans as the expert's"
        self.reporter.advance(stats.episodes, note)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, or train it on the expert's demonstrations."""
        if self.recipe.start_from is not None and not (self.root / "tokenizer").exists():
            AutoTokenizer.from_pretrained(start_of(self.recipe)).save_pretrained(self.root / "tokenizer")
        return make_tokenizer(sorted((self.root / "round0").glob("*.jsonl")), self.root / "tokenizer", self.recipe.vocabulary)

    def _sequences(self, round_: int, paths: list[Path]) -> ShardedSequences:
        """Encode the round's samples, which are in ``paths``, with the tokenizer of ``_tokenizer``."""
        self.reporter.begin(f"round {round_}: encode", len(paths))
        in_place = self.recipe.rounds[round_].in_place
        how = Encoding(self.root / "tokenizer", self.root / f"shards{round_}", self.recipe.max_tokens, in_place)
        return encode(paths, how, self.workers, lambda path: self.reporter.advance())

    def _train(self, round_: int, paths: list[Path]) -> None:
        """Train on the round's demonstrations, ``paths``. A student round continues from the model of the previous round."""
        recipe, tokenizer = self.recipe, self._tokenizer()
        data = ShardedSequences(self._shards(round_, paths, tokenizer))
        fresh = not round_ and recipe.start_from is None
        curriculum = length_curriculum(recipe.shortest, recipe.max_tokens, 0.6) if fresh else None
        sizes = SIZES if torch.cuda.is_available() else ()
        batches, config = Batches(data, recipe.token_budget, recipe.seed + round_, curriculum, sizes=sizes), self._config(round_)
        self.reporter.begin(f"round {round_}: train", 60 * recipe.rounds[round_].minutes)
        model = self._model(round_, tokenizer)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        train_planner(model, batches, config, self.root / f"train{round_}", Hooks(on_step=self._on_step))
        tokenizer.save_pretrained(self.model_dir(round_))

    def _shards(self, round_: int, paths: list[Path], tokenizer: PreTrainedTokenizerBase) -> list[Path]:
        """List the shards to train on: the latest rounds' and, of those before them, a part; and lessons."""
        recipe, own = self.recipe, self.recipe.rounds[round_]
        shards = list(self._sequences(round_, paths).paths)
        for earlier in range(round_):
            every = 1 if earlier and earlier > round_ - own.recent_rounds else own.rehearsal
            shards += self._sequences(earlier, self._paths(earlier)[::every]).paths
        lessons = {kind: count for kind, count in own.lessons.model_dump().items() if count}
        out = self.root / "lessons"
        return shards + [encode_lessons(count, recipe.seed + round_, tokenizer, out, kind) for kind, count in lessons.items()]

    def _config(self, round_: int) -> TrainConfig:
        recipe = self.recipe
        return TrainConfig(
            budget_s=60 * recipe.rounds[round_].minutes,
            lr=recipe.dagger_learning_rate if round_ else recipe.learning_rate,
            betas=(0.9, 0.99),  # batches are small, so squared gradients are noisy and need a long average
            decay=1.0 if round_ else 0.3,
            other_weight=recipe.rounds[round_].other_weight,
            log_every=200 if torch.cuda.is_available() else 20,
            seed=recipe.seed,
        )

    def _paths(self, round_: int) -> list[Path]:
        """List the files of a round that has been played."""
        folder = self.root / f"round{round_}"
        return [folder / name for name in json.loads((folder / _PLAYED).read_text())]

    def _model(self, round_: int, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
        if round_ or self.recipe.start_from is not None:
            return Qwen2ForCausalLM.from_pretrained(
                self.model_dir(round_ - 1) if round_ else start_of(self.recipe), dtype=torch.float32
            )
        torch.manual_seed(self.recipe.seed)
        model = Qwen2ForCausalLM(planner_config(len(tokenizer), tokenizer=tokenizer))
        initialize_lookup(model, seed=self.recipe.seed)
        return model

    def _on_step(self, record: TrainRecord) -> None:
        loss, accuracy, rate = (record[name] for name in ("plan_loss", "plan_accuracy", "tokens_per_s"))
        self.reporter.reach(record["elapsed_s"], f"plan loss {loss:.3f}, accuracy {accuracy:.3f}, {rate:.0f} tokens/s")


def start_of(recipe: Recipe) -> Path:
    """Return the directory of the planner that a recipe goes on from. Raise ``ValueError`` where it holds none."""
    path = bundled_planner_dir(recipe.name) if recipe.start_from == "bundled" else Path(str(recipe.start_from))
    if not (path / "config.json").is_file():
        raise ValueError(f"start_from: {path} holds no planner to go on from: name the directory of one, or leave it out")
    return path


def training_log(root: Path, rounds: int) -> list[dict[str, Any]]:
    """Read the training records of all rounds, each with its ``round``."""
    found: list[dict[str, Any]] = []
    for round_ in range(rounds + 1):
        path = root / f"train{round_}" / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found += [{**json.loads(line), "round": round_} for line in lines]
    return found
