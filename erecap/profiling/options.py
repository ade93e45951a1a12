"""Arguments of the measurements, for ``python -m erecap.profiling`` and ``erecap profile``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from erecap.models.device import DTYPES
from erecap.models.masks import ATTENTION_KINDS
from erecap.profiling.comm_command import add_comm_options
from erecap.profiling.frontend import Frontend
from erecap.profiling.generate_profile import DECODERS
from erecap.profiling.predict_command import LENGTHS as PREDICTED_LENGTHS
from erecap.profiling.predict_command import SHAPE as PREDICTED_SHAPE
from erecap.profiling.predict_command import add_predict_options
from erecap.profiling.rates_profile import BACKENDS
from erecap.profiling.shapes import SHAPES
from erecap.selectors import SELECTORS

Number = TypeVar("Number", int, float)

LENGTHS: Mapping[str, tuple[int, ...]] = {
    "prefill": (1024, 2048, 4096, 8192, 16384, 32768),
    "generate": (4096,),
    "batch": (1024,),
    "memory": (4096, 8192, 16384, 32768, 65536),
    "trace": (4096,),
    "rates": (4096, 32768),
    "sessions": (2048, 4096, 8192, 16384, 32768),
}
"""Prompt lengths of each measurement where none are given."""
KEEPS = "1,0.9,0.8,0.7"
"""Keep ratios where none are given."""


def make_parser(frontend: Frontend | None = None) -> argparse.ArgumentParser:
    """Return the parser of the measurements, with the name and the further subcommands of ``frontend``."""
    frontend = frontend or Frontend()
    text = "Measure the engine on this machine. Each measurement prints a table and writes a JSON file, anew after every point."
    parser = argparse.ArgumentParser(prog=frontend.prog, description=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="MEASUREMENT")
    prefill = _measurement(commands, "prefill", "Time to the first token by prompt length and keep ratio.")
    prefill.add_argument("--rounds", type=_positive, default=7, help="timed rounds per length, in rotating order (7)")
    prefill.add_argument("--new-lengths", type=_count, default=12, help="rounds per length on lengths new to the process (12)")
    prefill.add_argument("--no-stock", action="store_true", help="leave out stock generate of transformers")
    prefill.add_argument("--no-count", action="store_true", help="leave out the FLOPs counted by torch")
    _device_map(prefill)
    generate = _measurement(commands, "generate", "Prefill and a fixed number of decoded tokens.")
    generate.add_argument("--rounds", type=_positive, default=3, help="timed generations per variant (3)")
    generate.add_argument("--new-tokens", type=_positive, default=64, help="tokens to decode (64)")
    generate.add_argument("--decoders", type=_listed(str), default=("eager",), help=f"with commas: {', '.join(DECODERS)}")
    _device_map(generate)
    batch = _measurement(commands, "batch", "Replans per second by the number of prompts answered together.", keeps="1,0.7")
    batch.add_argument("--batch-sizes", type=_listed(_positive), default="1,2,4,8", help="prompts per batch, with commas (1,2,4,8)")
    batch.add_argument("--new-tokens", type=_positive, default=16, help="tokens of each answer (16)")
    batch.add_argument("--rounds", type=_positive, default=3, help="timed answers of all prompts per size and variant (3)")
    memory = _measurement(commands, "memory", "Peak memory of a prefill by length, up to the limit.")
    memory.add_argument("--limit-gib", type=_positive_float, help="use no more memory than this: a GPU's, or of a process on a CPU")
    _measurement(commands, "trace", "Where the time of one prefill goes, by part of the model.")
    _measurement(commands, "rates", "Matrix product, copy and attention kernels of this machine.")
    sessions = _measurement(commands, "sessions", "Replans of a recorded episode: from scratch, in sessions, pruned, with drafts.")
    sessions.add_argument("--trace", type=Path, help="file of `erecap trace-replans`; by default the one that ships")
    sessions.add_argument("--replans", type=_positive, default=6, help="replans timed per length (6)")
    sessions.add_argument("--rounds", type=_positive, default=3, help="rounds per length, in rotating order (3)")
    comm = _subcommand(commands, "comm", "Bandwidth and latency between devices, and all-reduces; runs under torchrun too.")
    add_comm_options(comm)
    _run_options(comm)
    comm.add_argument("--out", type=Path, help=_OUT)
    predict = _subcommand(commands, "predict", "Predict times on one device and on several, from rates. It measures nothing.")
    _case_options(predict, PREDICTED_LENGTHS, PREDICTED_SHAPE)
    add_predict_options(predict)
    env = _subcommand(commands, "env", "Check this machine: versions, processor, GPUs, memory, disk. Exits with 1 on an error.")
    env.add_argument("--device", help="torch device; by default the GPU where there is one")
    env.add_argument("--json", action="store_true", help="print the findings as JSON")
    env.add_argument("--out", type=Path, help="also write the findings to this file")
    show = _subcommand(commands, "show", "Print the tables of result files.")
    show.add_argument("files", type=Path, nargs="+", help="result files that the other measurements wrote")
    for name, subcommand in frontend.subcommands.items():
        _subcommand(commands, name, subcommand.text)
    return parser


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _subcommand(commands: "Commands[argparse.ArgumentParser]", name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text)


def _measurement(
    commands: "Commands[argparse.ArgumentParser]", name: str, text: str, keeps: str = KEEPS
) -> argparse.ArgumentParser:
    parser = _subcommand(commands, name, text)
    _case_options(parser, LENGTHS[name], "the bundled planner", keeps)
    parser.add_argument("--pruner", type=Path, help="directory of the model's pruner; by default a random one, or the bundled one")
    parser.add_argument("--selector", choices=SELECTORS, default="learned", help="what scores the tokens; learned by default")
    parser.add_argument("--attention", choices=ATTENTION_KINDS, default="sdpa", help="attention function of transformers (sdpa)")
    parser.add_argument("--sdpa-backend", choices=BACKENDS, help="kernel behind sdpa; by default the engine chooses")
    _run_options(parser)
    return parser


def _case_options(parser: argparse.ArgumentParser, lengths: Sequence[int], model: str, keeps: str = KEEPS) -> None:
    """Add the options that name a model, by default ``model``, and the cases."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", choices=SHAPES, help=f"published architecture, random weights; by default {model}")
    source.add_argument("--model", help=f"directory or hub id of a model; by default {model}")
    shown = ",".join(map(str, lengths))
    parser.add_argument(
        "--lengths", type=_listed(_positive), help=f"prompt lengths in tokens, with commas; by default those of {shown} that fit"
    )
    parser.add_argument(
        "--keep", "--keeps", dest="keeps", type=_listed(_ratio), default=keeps, metavar="KEEP",
        help=f"keep ratios, with commas; 1 is the baseline ({keeps})",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights; by default the faster one on the device")
    parser.add_argument("--out", type=Path, help=_OUT)


def _run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what runs on a device."""
    parser.add_argument("--device", help="torch device; by default the GPU where there is one")
    parser.add_argument(
        "--seconds", type=_positive_float, default=120.0, help="most seconds to spend (120); a row says what is left out"
    )


_OUT = "result file, JSON, written after every point; by default below runs/profile"


def _device_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device-map", help="auto, balanced or a JSON file of module -> device: layers on several devices")


def _listed(item: Callable[[str], Number | str]) -> Callable[[str], tuple[Number | str, ...]]:
    def parse(text: str) -> tuple[Number | str, ...]:
        return tuple(dict.fromkeys(item(part) for part in text.split(",")))

    parse.__name__ = "comma-separated list"
    return parse


def _number(text: str, make: Callable[[str], Number], rule: str, holds: Callable[[Number], bool]) -> Number:
    try:
        number = make(text.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {rule}") from error
    if not holds(number):
        raise argparse.ArgumentTypeError(f"{text!r} must be {rule}")
    return number


def _positive(text: str) -> int:
    return _number(text, int, "a whole number of at least 1, such as 1024", lambda number: number >= 1)


def _count(text: str) -> int:
    return _number(text, int, "a whole number of at least 0", lambda number: number >= 0)


def _positive_float(text: str) -> float:
    return _number(text, float, "a number above 0", lambda number: 0 < number < float("inf"))


def _ratio(text: str) -> float:
    return _number(text, float, "a keep ratio above 0 and at most 1, such as 0.7", lambda number: 0 < number <= 1)
