"""What `erecap bench-quality` has measured so far, and its file."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.recipes.settings import read_study, with_tuples
from erecap.models.files import reading, write_json_object

FORMAT = "erecap-quality-1"
UNPRUNED = "unpruned"
"""Name of the row without pruning."""
Place = tuple[str, float, str, str]
"""What a row is known by: selector, keep ratio, stages and checksum of the pruner."""
_REMEDY = "choose another --out, or remove that directory"


@dataclass(frozen=True)
class QualityRow:
    """One way of pruning, measured on all prompts.

    Attributes
    ----------
    selector
        Name of the selector; ``UNPRUNED`` for none.
    keep
        Keep ratio of every stage; 1 without pruning.
    stages
        Layers with a stage, as backend specs write them; empty without pruning.
    pruner
        Checksum of the pruner's weights; empty for a selector that uses none.
    kept_share, final_share
        Share of a text's prompt tokens that entered a layer, mean over layers, and the last layer; means over the texts.
    losses
        Cross-entropy of each text's last quarter, given what pruning leaves of the rest: mean over its tokens, in nats.
    answer_tokens
        Tokens of each text's last quarter.
    answers
        Greedy tokens after each text's prompt.
    agreement
        Share of places at which greedy tokens equal the unpruned model's, of the places of the longer answer: mean over the texts,
        0 to 1.
    found
        For each needle, whether its value is in the greedy answer.
    seconds
        Time of the measurement.
    """

    selector: str
    keep: float
    stages: str
    pruner: str
    kept_share: float
    final_share: float
    losses: tuple[float, ...]
    answer_tokens: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    agreement: float
    found: tuple[bool, ...]
    seconds: float

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss of all tokens of the texts' last quarters."""
        total = sum(loss * tokens for loss, tokens in zip(self.losses, self.answer_tokens, strict=True))
        return math.exp(total / sum(self.answer_tokens))

    @property
    def place(self) -> Place:
        """What a row is known by: selector, keep ratio, stages and pruner."""
        return self.selector, self.keep, self.stages, self.pruner

    def figures(self) -> dict[str, Any]:
        """Return the row's figures without those of single texts."""
        left_out = ("losses", "answer_tokens", "answers", "found")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**kept, "perplexity": self.perplexity, "needles_found": sum(self.found), "needles": len(self.found)}


@dataclass
class QualityResult:
    """What has been measured so far.

    Attributes
    ----------
    setting
        Facts that hold for all rows.
    rows
        The rows, that without pruning first.
    """

    setting: dict[str, Any]
    rows: list[QualityRow] = field(default_factory=list)

    @property
    def unpruned(self) -> QualityRow | None:
        """The row without pruning, where it has been measured."""
        return next((row for row in self.rows if row.selector == UNPRUNED), None)

    def save(self, path: Path, **more: Any) -> None:
        """Write the file, atomically."""
        rows = [{**asdict(row), "perplexity": row.perplexity} for row in self.rows]
        write_json_object(path, {"format": FORMAT, "setting": self.setting, "rows": rows, **more})

    @classmethod
    def load(cls, path: Path, setting: dict[str, Any]) -> "QualityResult":
        """Read what a run before has measured with the same setting; an empty result where there is no file.

        Raises
        ------
        FileError
            For a damaged file, and for one of another setting.
        """
        if not path.exists():
            return cls(setting)
        content = read_study(path, FORMAT, setting, _REMEDY)
        with reading(path, _REMEDY):
            return cls(setting, [_row(record) for record in content["rows"]])


def _row(record: dict[str, Any]) -> QualityRow:
    values = with_tuples({name: value for name, value in record.items() if name != "perplexity"})
    return QualityRow(**{**values, "answers": tuple(tuple(answer) for answer in record["answers"])})
