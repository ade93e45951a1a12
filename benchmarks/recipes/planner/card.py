"""The model card and the loss plot of a trained planner."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.config import Recipe
from benchmarks.recipes.planner.evaluation import SuiteScore

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {title}

A Qwen2-architecture model of {parameters:.2f} million parameters ({layers} layers of width {width}, {heads} query heads and
{kv_heads} KV head of dimension {head_dim}, vocabulary {vocabulary}), trained from scratch by behaviour cloning on an expert's
episodes, then by {rounds} round(s) of DAgger. It plans for these worlds **and knows nothing else**: its scores say nothing about
language models in general; do not compare them with zero-shot models.

Worlds: {worlds}.

## Closed loop on held-out seeds (never used in training)
{scores}

Success has its 95% Wilson interval; SPL is success weighted by the expert's steps over the steps taken (Anderson et al. 2018).

## Training
`erecap train-planner --out DIR` made it: {tokens:.1f} million tokens in {hours:.2f} hours of training on {machine}, on prompts
of up to {max_tokens} tokens. Recipe: `{recipe}`

![loss](loss.png)

## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (cls.from_pretrained("erecap/bundled/{name}") for cls in (AutoModelForCausalLM, AutoTokenizer))
```
or `erecap run --backend {backend} --suite {suite}`. Prompts have the form that `planner.build_prompt` gives them.
"""


@dataclass(frozen=True)
class CardFacts:
    """The facts on a trained planner's card.

    Attributes
    ----------
    recipe
        Recipe of the planner.
    config
        The model's config, from transformers.
    parameters
        Number of the model's parameters.
    log
        The training records of all rounds, each with its ``round``.
    scores
        Closed-loop results on held-out seeds, one per suite.
    machine
        The machine that trained it, in words.
    """

    recipe: Recipe
    config: Any
    parameters: int
    log: Sequence[Mapping[str, Any]]
    scores: Sequence[SuiteScore]
    machine: str


def write_card(out: Path, facts: CardFacts) -> None:
    """Write ``README.md`` and ``loss.png`` into the model's directory, ``out``."""
    head = ["| suite | episodes | success | SPL | expert | of the expert's |", "|---|---|---|---|---|---|"]
    recipe, config, last = facts.recipe, facts.config, {record["round"]: record for record in facts.log}
    bundled = recipe.name == Recipe.model_fields["name"].default
    text = _CARD.format(
        title="The bundled planner of E-RECAP" if bundled else f"The planner `{recipe.name}` of E-RECAP",
        worlds=", ".join(dict.fromkeys(source.env_id for round_ in recipe.rounds for source in round_.sources)),
        name=recipe.name,
        backend="baseline" if bundled else f"'baseline?model={recipe.name}'",
        suite=recipe.suites[0] if recipe.suites else "SUITE",
        parameters=facts.parameters / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        rounds=len(recipe.student_rounds),
        scores="\n".join([*head, *map(_row, facts.scores)]),
        tokens=sum(r["tokens"] for r in last.values()) / 1e6,
        hours=sum(r["elapsed_s"] for r in last.values()) / 3600,
        machine=facts.machine,
        max_tokens=recipe.max_tokens,
        recipe=recipe.model_dump_json(exclude={"expert_sources", "student_rounds"}),
    )
    write_atomically(out / "README.md", text)
    write_atomically(out / "loss.png", loss_plot(facts.log))


def _row(score: SuiteScore) -> str:
    success = f"{score.success:.1%} [{score.success_ci95[0]:.1%}, {score.success_ci95[1]:.1%}]"
    share = "-" if score.of_expert is None else f"{score.of_expert:.1%}"
    return f"| {score.suite} | {score.episodes} | {success} | {score.spl:.3f} | {score.expert_success:.1%} | {share} |"


def loss_plot(log: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot the loss of plan tokens and of other tokens against the tokens seen in all rounds; return a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    base, position = 0.0, 0.0
    for round_ in sorted({record["round"] for record in log}):
        records = [record for record in log if record["round"] == round_]
        xs = [(base + record["tokens"]) / 1e6 for record in records]
        for key, color, label in (("plan_loss", "#0072B2", "plan tokens"), ("other_loss", "#D55E00", "other tokens")):
            axes.plot(xs, [record[key] for record in records], color=color, linewidth=1, label=label if round_ == 0 else None)
        base, position = base + records[-1]["tokens"], xs[-1]
        axes.axvline(position, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="million tokens", ylabel="cross-entropy (nats)", yscale="log", title="Training of the bundled planner")
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
