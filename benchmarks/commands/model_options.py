"""What several commands make of their options: prompt lengths, and a model with its pruner."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erecap.models.loading import LoadedModel
    from erecap.models.pruner import TokenPruner


def parse_lengths(text: str) -> list[int]:
    """Read prompt lengths.

    Parameters
    ----------
    text : str
        Positive whole numbers of tokens, separated by commas.

    Returns
    -------
    list of int
        The lengths.

    Raises
    ------
    ValueError
        For other text.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"lengths={text!r} must be positive whole numbers separated by commas: such as 2048,4096")
    return [int(part) for part in parts]


def load_with_pruner(
    selector: str, model: str | None, pruner: str | None, dtype: str | None, device: str | None
) -> tuple["LoadedModel", "TokenPruner | None"]:
    """Load a model, and the pruner where the selector uses one.

    Parameters
    ----------
    selector : str
        Name of the selector.
    model : str or None
        Directory or hub id; ``None`` for the bundled planner.
    pruner : str or None
        Directory of the pruner; ``None`` for the bundled one.
    dtype, device : str or None
        Names of torch's dtype and device; ``None`` takes the default of the machine.

    Returns
    -------
    LoadedModel, TokenPruner or None
        The model with its tokenizer, and the pruner or ``None`` for a selector that uses none.

    Raises
    ------
    ValueError
        If the selector needs a pruner, and a model other than the bundled one is given without a pruner.
    """
    from erecap.models.loading import load_model, load_pruner
    from erecap.selectors import USE_PRUNER

    if selector in USE_PRUNER and model is not None and pruner is None:
        raise ValueError(f"model={model!r} needs a pruner of its own: give --pruner DIR, or --selector random or recency")
    loaded = load_model(model, dtype, device)
    return loaded, load_pruner(pruner, loaded) if selector in USE_PRUNER else None
