"""What a study has measured so far, and its file."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.recipes.settings import read_study, with_tuples
from erecap.first_stage.answers import Answered
from erecap.first_stage.points import StagePoint
from erecap.models.files import reading, write_json_object
from erecap.selectors import USE_PRUNER

FORMAT = "erecap-stages-1"
_REMEDY = "choose another --out, or remove that directory"


@dataclass
class StudyResult:
    """What has been measured so far.

    Attributes
    ----------
    setting
        Facts that hold for all points.
    unpruned
        What the unpruned model did with each case.
    points
        The measured schedules.
    unreachable
        Shares that no keep ratio gives: ``share``, ``first``, ``stages`` and the ``nearest`` share.
    """

    setting: dict[str, Any]
    unpruned: list[Answered] = field(default_factory=list)
    points: list[StagePoint] = field(default_factory=list)
    unreachable: list[dict[str, Any]] = field(default_factory=list)

    def of(self, selector: str) -> list[StagePoint]:
        """Return the points of one selector."""
        return [point for point in self.points if point.selector == selector]

    def save(self, path: Path, **more: Any) -> None:
        """Write the file, atomically."""
        self.points.sort(key=lambda point: (point.selector, -point.share, point.first, point.stages))
        write_json_object(path, {"format": FORMAT, **asdict(self), **more})

    @classmethod
    def load(cls, path: Path, setting: dict[str, Any]) -> "StudyResult":
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
            unpruned = [Answered(**with_tuples(one)) for one in content["unpruned"]]
            points = [StagePoint(**with_tuples(point)) for point in content["points"]]
            return cls({**content["setting"], **setting}, unpruned, points)


def spec_of(point: StagePoint, model: str | None, pruner: str | None, dtype: str | None = None) -> str:
    """Write a point as the backend spec that prunes so.

    Parameters
    ----------
    point
        The measured schedule.
    model, pruner
        Model and directory of its pruner as they were given; ``None`` for the bundled ones.
    dtype
        Name of the dtype, where one was given.
    """
    options = {
        "keep": f"{point.keep:g}",
        "stages": point.stages,
        "selector": None if point.selector == "learned" else point.selector,
        "model": model,
        "pruner": pruner if point.selector in USE_PRUNER else None,
        "dtype": dtype,
    }
    return "erecap?" + "&".join(f"{key}={value}" for key, value in options.items() if value is not None)


def without_details(point: StagePoint) -> dict[str, Any]:
    """Return a point's figures without those of single prompts."""
    return {name: value for name, value in asdict(replace(point, loss_diffs=())).items() if name != "loss_diffs"}
