"""The engine's planner backends by name: ``baseline``, ``erecap``, ``hf-generate``, and a session of each.

Only this module, ``backend_options`` and ``erecap.answering`` import the package ``planner``. A new backend is a class in
``erecap.answering`` with ``generate``, and a line in ``BACKENDS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from erecap.answering.engine import EngineBackend
from erecap.answering.local import LocalBackend, encode_prompt
from erecap.answering.session import DRAFTS, SessionBackend
from erecap.answering.stock import HFGenerateBackend
from erecap.answering.stock_session import HFSessionBackend
from erecap.backend_options import (
    MODEL_OPTIONS,
    PRUNE_OPTIONS,
    SESSION_OPTIONS,
    SESSION_PRUNE_OPTIONS,
    STOCK_SESSION_OPTIONS,
    DraftOptions,
    ModelOptions,
    PruneOptions,
    check_known,
    read_drafts,
    read_format,
    read_kv_budget,
    read_lookup,
    read_model_options,
    read_prune_options,
    read_reasoning,
)
from erecap.calibration.chooser import BudgetChooser
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.thresholds import read_calibration
from erecap.engine.selector_protocol import Selector
from erecap.models.architecture import check_config
from erecap.models.draft_head import DraftHead
from erecap.models.loading import LoadedModel, bundled_pruner_dir, load_draft_head, load_model, load_pruner, read_config
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.selectors import USE_PRUNER, SelectorContext, make_selector
from planner.backend import PlannerBackend
from planner.spec import BackendSpec
from planner.trimming import TRIMS

__all__ = ["BACKENDS", "EngineBackend", "EngineBackendMaker", "HFGenerateBackend", "LocalBackend", "encode_prompt", "make_backend"]


@dataclass(frozen=True)
class EngineBackendMaker:
    """A factory of backends, and the options that it takes.

    Attributes
    ----------
    make
        Makes the backend from the options of its spec, which have been checked to be known.
    options
        Names of the options it takes, besides those of ``planner.trimming``.
    """

    make: Callable[[Mapping[str, str]], LocalBackend]
    options: tuple[str, ...] = MODEL_OPTIONS


def make_backend(spec: BackendSpec) -> PlannerBackend:
    """Make the backend that a spec describes.

    Every backend takes the options of ``planner.trimming``: ``last=K`` or ``mask=K``.

    Parameters
    ----------
    spec
        Name and options, such as ``erecap?keep=0.7``.

    Raises
    ------
    ValueError
        For an unknown name or option, or a value that the backend cannot use.
    """
    maker = BACKENDS.get(spec.name)
    if maker is None:
        raise ValueError(f"backend {spec.name!r} is not known here: the engine's backends are {', '.join(BACKENDS)}")
    check_known(spec, (*maker.options, *TRIMS))
    reasons, answer_format = read_reasoning(spec.options), read_format(spec.options)
    backend = maker.make(spec.options)
    if not reasons:
        backend.turn_off_reasoning()
    backend.use_format(answer_format)
    return backend


def _load(options: ModelOptions) -> LoadedModel:
    return load_model(options.model, options.dtype, placement=options.placement)


def _load_supported(options: ModelOptions) -> LoadedModel:
    """Load a model for the engine. An architecture that it cannot run is refused before the weights are read."""
    check_config(read_config(options.model))
    return _load(options)


def _baseline(options: Mapping[str, str]) -> LocalBackend:
    model = read_model_options(options)
    return EngineBackend(_load_supported(model), PruneSchedule.none(), trim=model.trim)


def _hf_generate(options: Mapping[str, str]) -> LocalBackend:
    model = read_model_options(options)
    return HFGenerateBackend(_load(model), model.trim)


def _hf_session(options: Mapping[str, str]) -> LocalBackend:
    model, lookup, budget = read_model_options(options), read_lookup(options), read_kv_budget(options)
    return HFSessionBackend(_load_supported(model), model.trim, lookup, budget)


def _baseline_session(options: Mapping[str, str]) -> LocalBackend:
    model = read_model_options(options)
    budget, drafts, loaded = read_kv_budget(options), read_drafts(options, DRAFTS), _load_supported(model)
    return SessionBackend(loaded, PruneSchedule.none(), None, model.trim, budget, *_drafts(drafts, model, loaded))


def _erecap_session(options: Mapping[str, str]) -> LocalBackend:
    """Make pruned sessions. Their rule is one whose verdicts do not change with a longer prompt, so not the default ``top_k``."""
    model, prune = read_model_options(options), read_prune_options({"rule": "chunk_top_k", **options})
    budget, drafts, loaded = read_kv_budget(options), read_drafts(options, DRAFTS), _load_supported(model)
    schedule, selector = _schedule(prune, _context(model, prune, loaded))
    return SessionBackend(loaded, schedule, selector, model.trim, budget, *_drafts(drafts, model, loaded))


def _drafts(options: DraftOptions, model: ModelOptions, loaded: LoadedModel) -> tuple[tuple[str, ...], DraftHead | None]:
    """Load the draft head, where there is one. Without, its source is left out, unless it was asked for."""
    if "head" not in options.sources:
        return options.sources, None
    theirs = model.model is not None and options.head is None  # no need to hash all weights of a model that has no head
    head = None if theirs else load_draft_head(options.head, loaded)
    if head is None and options.insists:
        raise ValueError(
            "draft=...head needs a draft head of this model: name its directory with draft_head=DIR (made by `erecap "
            "train-draft-head`), or leave head out of draft"
        )
    return tuple(name for name in options.sources if name != "head" or head is not None), head


def _erecap(options: Mapping[str, str]) -> LocalBackend:
    model, prune = read_model_options(options), read_prune_options(options)
    loaded = _load_supported(model)
    context = _context(model, prune, loaded)
    if prune.budget_s is not None:
        choose = _chooser(prune, prune.budget_s, loaded, context)
        return EngineBackend(loaded, context.schedule, make_selector(prune.selector, context), choose, model.trim)
    schedule, selector = _schedule(prune, context)
    return EngineBackend(loaded, schedule, selector, trim=model.trim)


def _context(model: ModelOptions, options: PruneOptions, loaded: LoadedModel) -> SelectorContext:
    return SelectorContext(PruneSchedule.none(), _pruner(model, options, loaded), options.seed, loaded.model, loaded.eos_ids)


def _schedule(options: PruneOptions, context: SelectorContext) -> tuple[PruneSchedule, Selector]:
    """Make the schedule by its rule, and its selector."""
    assert context.model is not None
    depth = context.model.config.num_hidden_layers
    if options.share is None:
        schedule = PruneSchedule.of_stages(options.stages, depth, options.keep)
    else:
        schedule = PruneSchedule.of_share(options.stages, depth, options.share)
    return _by_rule(options, schedule), make_selector(options.selector, replace(context, schedule=schedule))


def _pruner(model: ModelOptions, options: PruneOptions, loaded: LoadedModel) -> TokenPruner | None:
    """Load the pruner of a selector that scores with one; the others need none."""
    if options.selector not in USE_PRUNER:
        return None
    if model.model is not None and options.pruner is None:
        raise ValueError(
            f"the bundled pruner belongs to the bundled planner, not to {model.model!r}: name the model's own with "
            "pruner=DIR (made by `erecap train-pruner`), or use selector=random or selector=recency"
        )
    return load_pruner(options.pruner, loaded)


def _chooser(options: PruneOptions, budget_s: float, loaded: LoadedModel, context: SelectorContext) -> BudgetChooser:
    """Make a chooser over the stages that the pruner was trained for; selectors without a pruner can score after every layer."""
    cost = CostModel.load(options.cost_file, Setting.of(loaded, options.selector))
    stages = None if context.pruner is None else context.pruner.stages
    return BudgetChooser(
        cost, budget_s, stages, lambda schedule: make_selector(options.selector, replace(context, schedule=schedule))
    )


def _by_rule(options: PruneOptions, schedule: PruneSchedule) -> PruneSchedule:
    """Apply the rule of the options. ``threshold`` takes the thresholds that were fitted to the pruner."""
    if options.rule != "threshold":
        return schedule.by_rule(options.rule)
    return schedule.by_rule(options.rule, read_calibration(options.pruner or bundled_pruner_dir()).taus(schedule))


BACKENDS: dict[str, EngineBackendMaker] = {
    "baseline": EngineBackendMaker(_baseline),
    "erecap": EngineBackendMaker(_erecap, (*MODEL_OPTIONS, *PRUNE_OPTIONS)),
    "baseline-session": EngineBackendMaker(_baseline_session, (*MODEL_OPTIONS, *SESSION_OPTIONS)),
    "erecap-session": EngineBackendMaker(_erecap_session, (*MODEL_OPTIONS, *SESSION_PRUNE_OPTIONS, *SESSION_OPTIONS)),
    "hf-generate": EngineBackendMaker(_hf_generate),
    "hf-session": EngineBackendMaker(_hf_session, (*MODEL_OPTIONS, *STOCK_SESSION_OPTIONS)),
}
