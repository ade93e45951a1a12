"""Training records as TensorBoard scalars. Needs the extra ``tensorboard``."""

from collections.abc import Callable
from pathlib import Path

from erecap.training.loop import TrainRecord


def tensorboard_hook(directory: Path) -> Callable[[TrainRecord], None]:
    """Make a hook that writes the numbers of a record to event files in ``directory``. Those under ``eval`` become ``eval/NAME``.

    Raises
    ------
    ValueError
        Where TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs: pip install 'erecap[tensorboard]'") from error
    writer = SummaryWriter(str(directory))

    def write(record: TrainRecord) -> None:
        for name, value in {**record, **{f"eval/{key}": number for key, number in record.get("eval", {}).items()}}.items():
            if isinstance(value, int | float) and name != "step":
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    return write
