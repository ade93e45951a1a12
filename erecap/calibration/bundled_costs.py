"""The cost models that ship with erecap, by name: the seconds of planners on machines that the user need not have."""

from pathlib import Path

from erecap.calibration.cost_model import CostModel

_COSTS = Path(__file__).parents[1] / "bundled" / "costs"
DEFAULT_COST = "planner-cpu"
"""Name of the cost model of the bundled planner, measured on one CPU core."""


def bundled_costs() -> dict[str, Path]:
    """Return the files of the bundled cost models by name."""
    return {path.stem: path for path in sorted(_COSTS.glob("*.json"))}


def find_cost(name: str) -> CostModel:
    """Load a bundled cost model by name, or any other one by the path of its file.

    Raises
    ------
    ValueError
        For what is neither, and for a file that cannot be read.
    """
    bundled = bundled_costs()
    path = bundled.get(name, Path(name))
    if not path.is_file():
        raise ValueError(
            f"cost model {name!r} is no file and none of the bundled ones ({', '.join(bundled) or 'there are none'}): measure "
            "one with `erecap calibrate --cost --out FILE`, or predict one with `erecap profile predict --cost-out FILE`"
        )
    return CostModel.load(path)
