"""``python -m erecap.profiling``: one command per measurement, each with a table on the terminal and a JSON file."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel
from transformers import PretrainedConfig, PreTrainedModel

from erecap.models.architecture import check_length
from erecap.models.device import check_free_memory, explain_out_of_memory, resolve_device, resolve_dtype
from erecap.models.identity import identify
from erecap.models.loading import load_model
from erecap.models.pruner import TokenPruner
from erecap.profiling import generate_profile, memory_profile, prefill_point
from erecap.profiling import trace_profile as trace
from erecap.profiling.environment import command_line, machine_facts, model_facts
from erecap.profiling.generate_profile import DECODERS, GeneratePlan, profile_generate
from erecap.profiling.memory_profile import MemoryPlan, profile_memory
from erecap.profiling.options import make_parser
from erecap.profiling.prefill_profile import PrefillPlan, profile_prefill
from erecap.profiling.rates_profile import BACKENDS, attention_rates, copy_rate, matrix_rate
from erecap.profiling.results import ResultFile, Row, read_result
from erecap.profiling.shapes import make_random_model, make_random_pruner, shape_bytes, shape_config, weight_bytes
from erecap.profiling.table import format_table
from erecap.profiling.variants import Variants
from erecap.schedule import PruneSchedule
from erecap.selectors import SelectorContext, make_selector


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement that ``arguments`` name. Return 0, 1 after a user error, or 130 after Ctrl-C."""
    args = make_parser().parse_args(arguments)
    try:
        if args.command == "show":
            return _show(args.files)
        with torch.inference_mode(), _chosen_kernel(args):
            return COMMANDS[args.command](_Measurement(args))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what was measured is in {args.out}\n")
        return 130
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _chosen_kernel(args: argparse.Namespace) -> Any:
    return sdpa_kernel([BACKENDS[args.sdpa_backend]]) if args.sdpa_backend else nullcontext()


@dataclass
class _Measurement:
    """The measurement that the arguments name: device, model, variants and result file, each made when first used."""

    args: argparse.Namespace

    @cached_property
    def device(self) -> torch.device:
        return resolve_device(self.args.device)

    @cached_property
    def dtype(self) -> torch.dtype:
        return resolve_dtype(self.args.dtype, self.device)

    @cached_property
    def config(self) -> PretrainedConfig:
        return self.model.config if self.args.model else shape_config(self.args.shape)

    @property
    def name(self) -> str:
        return self.args.model or f"{self.args.shape} (random weights)"

    @cached_property
    def model(self) -> PreTrainedModel:
        if self.args.model:
            return load_model(self.args.model, self.args.dtype, str(self.device)).model
        check_free_memory(self.device, shape_bytes(self.args.shape, self.dtype), f"the shape {self.args.shape}")
        with explain_out_of_memory(self.device, f"making the shape {self.args.shape}"):
            return make_random_model(shape_config(self.args.shape), self.device, self.dtype, self.args.attention)

    @cached_property
    def variants(self) -> Variants:
        """Schedule and selector by keep ratio: the default stages for the model's depth, and one pruner for all."""
        depth = self.model.config.num_hidden_layers
        made = make_random_pruner(self.model, PruneSchedule.for_depth(depth, 0.7))
        if self.args.pruner:
            made = TokenPruner.from_pretrained(self.args.pruner, identify(self.model)).to(self.model.device, self.model.dtype)
        variants: Variants = {}
        for keep in self.args.keeps:
            schedule = PruneSchedule.none() if keep == 1 else PruneSchedule.for_depth(depth, keep)
            context = SelectorContext(schedule, made, model=self.model)
            variants[keep] = (schedule, None if keep == 1 else make_selector("learned", context))
        return variants

    @cached_property
    def file(self) -> ResultFile:
        attention = self.args.attention
        if "model" in self.__dict__:
            attention = self.model.config._attn_implementation
        return ResultFile(
            self.args.out,
            kind=self.args.command,
            command=command_line(),
            machine=machine_facts(self.device),
            model=model_facts(self.config, self.name, self.dtype, attention),
            sdpa_backend=self.args.sdpa_backend or "the engine's choice",
        )

    def show(self) -> int:
        """Print the table and the path of the result file."""
        self.file.save()
        _print(self.file.content)
        sys.stdout.write(f"written: {self.args.out}\n" if self.args.out else "")
        return 0

    def check_lengths(self, new_tokens: int = 0) -> None:
        for length in self.args.lengths:
            check_length(self.model.config, length, new_tokens)


def _prefill(run: _Measurement) -> int:
    run.check_lengths()
    rate = matrix_rate(run.device, run.dtype)
    run.file.note(rates=rate)
    plan = PrefillPlan(run.args.lengths, run.args.rounds, run.args.seconds, not run.args.no_count, run.args.new_lengths)
    profile_prefill(run.model, run.variants, plan, rate["matmul_flops_per_s"], run.file)
    return run.show()


def _generate(run: _Measurement) -> int:
    unknown = [name for name in run.args.decoders if name not in DECODERS]
    if unknown:
        raise ValueError(f"decoders {', '.join(unknown)} are not known: use {', '.join(DECODERS)}")
    run.check_lengths(run.args.new_tokens)
    rate = copy_rate(run.device)
    run.file.note(rates=rate)
    plan = GeneratePlan(
        run.args.lengths, run.args.new_tokens, run.args.rounds, run.args.decoders, run.args.seconds, run.device.type == "cuda"
    )
    profile_generate(run.model, run.variants, plan, rate["copy_bytes_per_s"], run.file)
    return run.show()


def _memory(run: _Measurement) -> int:
    if run.args.limit_gib and run.device.type == "cuda":
        total = torch.cuda.get_device_properties(run.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, run.args.limit_gib * 2**30 / total), run.device)
    run.check_lengths()
    run.file.note(limit_gib=run.args.limit_gib, weight_bytes=weight_bytes(run.model))
    profile_memory(run.model, run.variants, MemoryPlan(run.args.lengths, run.args.seconds), run.file)
    return run.show()


def _trace(run: _Measurement) -> int:
    run.check_lengths()
    for length in run.args.lengths:
        trace.profile_trace(run.model, run.variants, length, run.file)
    return run.show()


def _rates(run: _Measurement) -> int:
    for row in (matrix_rate(run.device, run.dtype), copy_rate(run.device)):
        run.file.add(row)
    for row in attention_rates(run.config, run.device, run.dtype, run.args.lengths):
        run.file.add(row)
    return run.show()


def _env(run: _Measurement) -> int:
    return run.show()


def _show(files: Sequence[Path]) -> int:
    for file in files:
        _print(read_result(file))
    return 0


def _print(content: Row) -> None:
    machine, model = content["machine"], content["model"]
    sys.stdout.write(
        f"\n{content['kind']}: {model['model_id']}, {model['dtype']}, {model['attention']} on {machine['device_name']}\n"
    )
    sys.stdout.write(format_table(SUMMARIES[content["kind"]](content)) + "\n")
    sys.stdout.flush()


def _rate_rows(content: Row) -> list[Row]:
    return [{key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} for row in content["points"]]


SUMMARIES: dict[str, Callable[[Row], list[Row]]] = {
    "prefill": lambda content: prefill_point.summary_rows(content["points"]),
    "generate": lambda content: generate_profile.summary_rows(content["points"]),
    "memory": lambda content: memory_profile.summary_rows(content["points"]),
    "trace": lambda content: trace.summary_rows(content["points"]),
    "rates": _rate_rows,
    "env": lambda content: [{"fact": key, "value": value} for key, value in content["machine"].items()],
}
"""By measurement, the function that makes the rows of the table from the content of the result file."""


COMMANDS: dict[str, Callable[[_Measurement], int]] = {
    "prefill": _prefill,
    "generate": _generate,
    "memory": _memory,
    "trace": _trace,
    "rates": _rates,
    "env": _env,
}
"""Measurements by name."""
