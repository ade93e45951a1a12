"""What a measurement needs, made from its arguments: device, model, variants, prompt lengths and result file."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch.nn.attention import sdpa_kernel
from transformers import PretrainedConfig, PreTrainedModel

from erecap.distributed.ranks import current
from erecap.models.architecture import ContextLengthError
from erecap.models.device import check_free_memory, explain_out_of_memory, resolve_dtype
from erecap.models.identity import identify
from erecap.models.loading import bundled_planner_dir, bundled_pruner_dir, load_model, read_config
from erecap.models.placement import Placement, PlacementOptions, choose_placement
from erecap.models.pruner import TokenPruner, place_pruner
from erecap.profiling.environment import command_line, machine_facts, model_facts
from erecap.profiling.frontend import Frontend
from erecap.profiling.memory_formula import config_bytes
from erecap.profiling.options import LENGTHS
from erecap.profiling.rates_profile import BACKENDS, refusal
from erecap.profiling.results import ResultFile, default_path
from erecap.profiling.shapes import POSITIONS, make_random_model, make_random_pruner, make_random_spread_model, shape_config
from erecap.profiling.spread import in_step, spread_facts
from erecap.profiling.variants import Variant, Variants
from erecap.schedule import PruneSchedule
from erecap.selectors import SelectorContext, make_selector


@dataclass
class Measurement:
    """The measurement that the arguments name. Its parts are made when they are first used.

    Attributes
    ----------
    args
        Arguments as ``make_parser`` reads them.
    frontend
        The command line.
    words
        The arguments as they were written, for the result file.
    too_long
        Default lengths that exceed the model's positions, in tokens.
    """

    args: argparse.Namespace
    frontend: Frontend = field(default_factory=Frontend)
    words: tuple[str, ...] = ()
    too_long: list[int] = field(default_factory=list)

    @cached_property
    def placement(self) -> Placement:
        """Where the model is put: on one device, on those of a device map, or divided among the ranks of a launch."""
        return choose_placement(self._placement_options, self.config)

    @property
    def _placement_options(self) -> PlacementOptions:
        return PlacementOptions(self.args.device, getattr(self.args, "device_map", None))

    @cached_property
    def device(self) -> torch.device:
        """Device of the measurement; of a model on several devices the first one."""
        return self.placement.device

    @property
    def writes(self) -> bool:
        """Whether this process writes and prints the result; of several processes only the first one does."""
        ranks = current()
        return ranks is None or ranks.leads

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return resolve_dtype(self.args.dtype, self.device)

    @property
    def shape(self) -> str | None:
        """Shape with random weights; ``None`` for a model from files. The bundled planner comes first, then ``nano``."""
        if self.args.model or self.args.shape:
            return self.args.shape or None
        return None if (bundled_planner_dir() / "config.json").is_file() else "nano"

    @property
    def name(self) -> str:
        """Name of the model for tables."""
        return f"{self.shape} (random weights)" if self.shape else self.args.model or "bundled planner"

    @cached_property
    def config(self) -> PretrainedConfig:
        """Config of the model, read without its weights."""
        return shape_config(self.shape) if self.shape else read_config(self.args.model)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, on the device."""
        with torch.inference_mode(False):  # selectors that take gradients need plain weights
            return self._random_model(self.shape) if self.shape else self._loaded_model()

    def _loaded_model(self) -> PreTrainedModel:
        model = load_model(self.args.model, self.args.dtype, placement=self._placement_options).model
        model.set_attn_implementation(self.args.attention)
        return model

    def _random_model(self, shape: str) -> PreTrainedModel:
        needed = config_bytes(self.config, self.dtype)
        if self.device.type == "cpu":  # of one memory, which all ranks share
            check_free_memory(self.device, needed, f"the shape {shape}")
        elif self.placement.device_map is None:
            check_free_memory(self.device, needed // self.placement.ranks, f"the shape {shape}")
        with explain_out_of_memory(self.device, f"making the shape {shape}"):
            if self.placement.whole:
                return make_random_model(self.config, self.device, self.dtype, self.args.attention)
            return make_random_spread_model(self.config, self.placement, self.dtype, self.args.attention)

    @cached_property
    def pruner(self) -> TokenPruner:
        """The pruner that is named, the bundled planner's own, or a random one."""
        own = bundled_pruner_dir() if not self.shape and not self.args.model else None
        path: Path | None = self.args.pruner or own
        if path is None:
            schedule = PruneSchedule.for_depth(self.config.num_hidden_layers, 0.7)
            return make_random_pruner(self.model, schedule)
        return place_pruner(TokenPruner.from_pretrained(path, identify(self.model)), self.model)

    @cached_property
    def schedules(self) -> dict[float, PruneSchedule]:
        """Schedules by keep ratio, with the default stages for the model's depth."""
        depth = self.config.num_hidden_layers
        return {keep: PruneSchedule.none() if keep == 1 else PruneSchedule.for_depth(depth, keep) for keep in self.args.keeps}

    @cached_property
    def variants(self) -> Variants:
        """Schedule and selector by keep ratio."""
        return {keep: self.variant(keep) for keep in self.schedules}

    def variant(self, keep: float) -> Variant:
        """Make the schedule and the selector of one keep ratio."""
        schedule = self.schedules[keep]
        if not schedule.stages:
            return schedule, None
        with torch.inference_mode(False):
            context = SelectorContext(schedule, self.pruner, model=self.model)
            return schedule, make_selector(self.args.selector, context)

    def lengths(self, new_tokens: int = 0) -> tuple[int, ...]:
        """Return the prompt lengths in tokens: those given, or the default ones that fit into the model's positions.

        Raises
        ------
        ContextLengthError
            For a given length that does not fit with ``new_tokens`` more.
        """
        given: tuple[int, ...] | None = self.args.lengths
        most = self.config.max_position_embeddings - new_tokens
        if given is not None:
            if max(given) > most:
                decoded = f" without the {new_tokens} that are decoded" if new_tokens else ""
                raise ContextLengthError(
                    f"--lengths {max(given)} exceeds the {most} positions of the {self.name}{decoded}: give shorter lengths, or a "
                    f"model of more (each --shape has {POSITIONS})"
                )
            return given
        lengths = LENGTHS[self.args.command]
        self.too_long = [length for length in lengths if length > most]
        return tuple(length for length in lengths if length <= most)

    @cached_property
    def out(self) -> Path:
        """Path of the result file."""
        return self.args.out or default_path(self.args.command, self.name.removesuffix(" (random weights)"))

    @cached_property
    def file(self) -> ResultFile:
        """The result file."""
        return ResultFile(
            self.out if self.writes else None,
            self.frontend.progress if self.writes else None,
            kind=self.args.command,
            command=command_line(self.frontend.prog, self.words),
            machine=machine_facts(self.device),
            model=model_facts(self.config, self.name, self.dtype, self.args.attention),
            sdpa_backend=self.args.sdpa_backend or "the engine's choice",
            **({} if self.placement.whole else spread_facts(self.placement, self.model)),
        )

    def finish(self) -> None:
        """Add a row for each default length that was left out, and mark the file as complete."""
        positions = self.config.max_position_embeddings
        for length in self.too_long:
            for keep in self.args.keeps:
                status = f"left out: beyond the model's {positions} positions"
                self.file.add({"prompt_tokens": length, "keep": keep, "status": status})
        self.file.finish()

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """Compute without gradients, and with the attention kernel that is named.

        Raises
        ------
        ValueError
            Where the device has no such kernel.
        """
        name = self.args.sdpa_backend
        with torch.inference_mode(), in_step():
            if name is None:
                yield
                return
            reason = refusal(name, self.device, self.dtype)
            if reason is not None:
                raise ValueError(
                    f"attention kernel {name!r} does not run on {self.device} ({reason}): leave --sdpa-backend out, or use one of "
                    f"{', '.join(other for other in BACKENDS if refusal(other, self.device, self.dtype) is None)}"
                )
            with sdpa_kernel([BACKENDS[name]]):
                yield


def make_variant(args: argparse.Namespace, keep: float) -> tuple[PreTrainedModel, Variant]:
    """Make the model and one variant in another process."""
    run = Measurement(args)
    return run.model, run.variant(keep)
