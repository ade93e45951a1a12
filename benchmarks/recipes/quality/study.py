"""The study: each selector at each share on the same prompts, row by row, in a file that a stopped run continues."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes.quality.cases import QualityCases
from benchmarks.recipes.quality.result import UNPRUNED, Place, QualityResult, QualityRow
from erecap.first_stage.answers import Answered, agreement, answer_case
from erecap.models.device import dtype_name
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.schedule.stages import format_stages
from erecap.selectors import USE_PRUNER, SelectorContext, make_selector

OnCase = Callable[[int, str], None]
"""A callback that gets the number of prompts answered so far, and the row at hand."""


@dataclass(frozen=True)
class QualityStudy:
    """A model, its scorers, and the prompts on which they are judged.

    Attributes
    ----------
    loaded
        The model.
    pruner
        Its pruner; ``None`` where no selector uses one.
    weights
        Checksum of the pruner's weights.
    cases
        The prompts.
    files
        Names of the text files.
    selectors
        Names of the selectors.
    schedules
        The schedules, one per share.
    max_new_tokens
        Tokens of a greedy answer.
    """

    loaded: LoadedModel
    pruner: TokenPruner | None
    weights: str
    cases: QualityCases
    files: tuple[str, ...]
    selectors: tuple[str, ...]
    schedules: tuple[PruneSchedule, ...]
    max_new_tokens: int = 24

    def setting(self) -> dict[str, Any]:
        """Describe what all rows share; a file of another setting is not continued."""
        texts = self.cases.texts
        return {
            "model": self.loaded.identity.describe(),
            "dtype": dtype_name(self.loaded.dtype),
            "device": str(self.loaded.device),
            "files": list(self.files),
            "texts": len(texts),
            "prompt_tokens": float(np.mean([len(case.prompt) for case in texts])),
            "answer_tokens": sum(len(case.answer) for case in texts),
            "needles": len(self.cases.needles),
            "max_new_tokens": self.max_new_tokens,
            "digest": self.cases.digest,
        }

    def run(self, path: Path, on_work: Callable[[int], None], on_case: OnCase) -> QualityResult:
        """Measure what ``path`` does not hold yet, and write the file after every row.

        Parameters
        ----------
        path
            The file.
        on_work
            Called once with the number of prompts to answer.
        on_case
            Called after each prompt.
        """
        result = QualityResult.load(path, self.setting())
        done = {row.place for row in result.rows}
        todo = {place: schedule for place, schedule in self._wanted().items() if place not in done}
        on_work(len(todo) * self._prompts)
        for number, (place, schedule) in enumerate(todo.items()):
            result.rows.append(self._row(place, schedule, result.unpruned, partial(_counted, on_case, number * self._prompts)))
            result.save(path)
        return result

    @property
    def _prompts(self) -> int:
        return len(self.cases.texts) + len(self.cases.hidden)

    def _wanted(self) -> dict[Place, PruneSchedule]:
        rows: dict[Place, PruneSchedule] = {(UNPRUNED, 1.0, "", ""): PruneSchedule.none()}
        for schedule in self.schedules:
            stages, keep = format_stages(schedule.layers), schedule.stages[0].keep
            rows |= {(name, keep, stages, self.weights if name in USE_PRUNER else ""): schedule for name in self.selectors}
        return rows

    def _row(self, place: Place, schedule: PruneSchedule, unpruned: QualityRow | None, on_case: OnCase) -> QualityRow:
        started, label = time.perf_counter(), place[0] if not schedule.stages else f"{place[0]} at keep {place[1]:g}"
        made = self._answers(
            schedule, place[0], lambda answered: on_case(answered, f"{label}: prompt {answered} of {self._prompts}")
        )
        texts, hidden = made[: len(self.cases.texts)], made[len(self.cases.texts) :]
        answers = tuple(one.tokens for one in texts)
        return QualityRow(
            *place,
            kept_share=float(np.mean([np.mean(one.layer_tokens) / one.layer_tokens[0] for one in texts])),
            final_share=float(np.mean([one.layer_tokens[-1] / one.layer_tokens[0] for one in texts])),
            losses=tuple(one.loss for one in texts),
            answer_tokens=tuple(len(case.answer) for case in self.cases.texts),
            answers=answers,
            agreement=self._agreement(answers, answers if unpruned is None else unpruned.answers),
            found=tuple(needle.value in self._text(one.tokens) for needle, one in zip(self.cases.needles, hidden, strict=True)),
            seconds=time.perf_counter() - started,
        )

    def _answers(self, schedule: PruneSchedule, selector: str, on_case: Callable[[int], None]) -> list[Answered]:
        context = SelectorContext(schedule, self.pruner, 0, self.loaded.model, self.loaded.eos_ids)
        scorer, found = make_selector(selector, context) if schedule.stages else None, list[Answered]()
        for case in (*self.cases.texts, *self.cases.hidden):
            found.append(answer_case(self.loaded, case, schedule, scorer, self.max_new_tokens))
            on_case(len(found))
        return found

    def _agreement(self, answers: Sequence[tuple[int, ...]], reference: Sequence[tuple[int, ...]]) -> float:
        pairs = zip(answers, reference, strict=True)
        return float(np.mean([agreement(mine, full, self._text, self.loaded.eos_ids).tokens for mine, full in pairs]))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _counted(on_case: OnCase, before: int, answered: int, work: str) -> None:
    on_case(before + answered, work)
