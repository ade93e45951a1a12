"""The whole recipe of the planner, from scratch to a model with its card."""

import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from benchmarks.output.files import checksum, write_atomically
from benchmarks.recipes.planner.card import CardFacts, write_card
from benchmarks.recipes.planner.config import Recipe
from benchmarks.recipes.planner.evaluation import SuiteScore, evaluate_suite
from benchmarks.recipes.planner.stages import Reporter, Stages, start_of, training_log
from benchmarks.runs.provenance import machine
from benchmarks.runs.suites import find_suite
from erecap.models.loading import bundled_planner_dir


def run_recipe(recipe: Recipe, out: Path, workers: int, episodes: int, install: bool, reporter: Reporter) -> dict[str, Any]:
    """Train the planner, evaluate it in closed loop, and write its card.

    Parameters
    ----------
    recipe
        The recipe.
    out
        Directory of the run; a stopped run continues.
    workers
        Number of processes that play episodes.
    episodes
        Held-out episodes per suite to evaluate on; 0 for no evaluation.
    install
        Whether to make the result a bundled planner, by the recipe's name.
    reporter
        Gets the progress.

    Returns
    -------
    dict
        ``planner``, the model's directory, and ``scores``, one per suite.

    Raises
    ------
    ValueError
        For a directory that holds a run of another recipe, an unknown suite, or a planner to go on from that is not there.
    """
    for suite in recipe.suites:
        find_suite(suite)
    if recipe.start_from is not None:
        start_of(recipe)
    out.mkdir(parents=True, exist_ok=True)
    _claim(recipe, out)
    trained = Stages(recipe, out, workers, reporter).run()
    scores = [_score(suite, trained, episodes, out, workers, reporter) for suite in recipe.suites] if episodes else []
    planner = _finish(recipe, trained, out, scores)
    if install:
        shutil.copytree(planner, bundled_planner_dir(recipe.name), dirs_exist_ok=True)
    return {"planner": str(bundled_planner_dir(recipe.name) if install else planner), "scores": [s.model_dump() for s in scores]}


def _claim(recipe: Recipe, out: Path) -> None:
    """Write the recipe into ``out``. Raise ``ValueError`` if another recipe is there."""
    path = out / "recipe.json"
    if path.exists() and _read_recipe(path) != recipe:
        raise ValueError(f"{out} holds a run of another recipe: use another --out, or the recipe in {path}")
    write_atomically(path, recipe.model_dump_json(indent=2) + "\n")


def _read_recipe(path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no recipe ({error.errors()[0]['msg']}). Nothing was changed: use another --out") from error


def _score(suite: str, model: Path, episodes: int, out: Path, workers: int, reporter: Reporter) -> SuiteScore:
    """Evaluate on one suite."""
    reporter.begin(f"evaluate: {suite}", 2 * episodes)
    played = out / "evaluation" / checksum(model / "model.safetensors")  # scores are stored by the checksum of the weights
    return evaluate_suite(suite, model, episodes, played, workers, lambda episode: reporter.advance())


def _finish(recipe: Recipe, trained: Path, out: Path, scores: list[SuiteScore]) -> Path:
    """Write the planner as it ships to ``out/planner``: weights in bfloat16, tokenizer, card."""
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.bfloat16)
    planner = out / "planner"
    model.save_pretrained(planner)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (trained / name).exists():
            shutil.copy(trained / name, planner / name)
    parameters = sum(p.numel() for p in model.parameters())
    log = training_log(out, len(recipe.student_rounds))
    write_card(planner, CardFacts(recipe, model.config, parameters, log, scores, machine().cpu))
    return planner
