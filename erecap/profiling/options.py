"""Arguments of the command line ``python -m erecap.profiling``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from erecap.models.device import DTYPES
from erecap.models.masks import ATTENTION_KINDS
from erecap.profiling.generate_profile import DECODERS
from erecap.profiling.rates_profile import BACKENDS
from erecap.profiling.shapes import SHAPES

Number = TypeVar("Number", int, float)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m erecap.profiling``."""
    parser = argparse.ArgumentParser(prog="python -m erecap.profiling", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prefill = _measurement(commands, "prefill", "Time to the first token by prompt length and keep ratio.", "1024,2048,4096")
    prefill.add_argument("--rounds", type=_positive, default=7, help="timed rounds per length; the order of variants rotates")
    prefill.add_argument("--new-lengths", type=int, default=12, help="rounds on lengths new to the process, per length; 0: none")
    prefill.add_argument("--no-count", action="store_true", help="leave out the FLOPs counted by torch")
    generate = _measurement(commands, "generate", "Prefill and a fixed number of decoded tokens.", "4096")
    generate.add_argument("--rounds", type=_positive, default=3, help="timed generations per variant")
    generate.add_argument("--new-tokens", type=_positive, default=64, help="tokens to decode")
    generate.add_argument("--decoders", type=_listed(str), default=("eager",), help=f"with commas: {', '.join(DECODERS)}")
    memory = _measurement(commands, "memory", "Peak memory of a prefill by length.", "4096,8192,16384,32768,65536")
    memory.add_argument("--limit-gib", type=float, help="use no more of a GPU's memory than this")
    _measurement(commands, "trace", "Where the time of one prefill goes, by part of the model.", "4096")
    _measurement(commands, "rates", "Matrix product, copy and attention kernels of this machine.", "4096,32768")
    show = commands.add_parser("show", help="Print the tables of result files.", description="Print the tables of result files.")
    show.add_argument("files", type=Path, nargs="+", help="result files that the other commands wrote")
    _measurement(commands, "env", "Device, driver and versions of this machine.", "1")
    return parser


def _measurement(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, lengths: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", choices=SHAPES, default="nano", help="published architecture with random weights")
    source.add_argument("--model", help="directory or hub id of a model, instead of --shape")
    parser.add_argument("--pruner", type=Path, help="directory of the model's pruner; a random pruner by default")
    parser.add_argument("--lengths", type=_listed(_positive), default=lengths, help="prompt lengths in tokens, with commas")
    parser.add_argument(
        "--keeps", type=_listed(_ratio), default="1,0.9,0.8,0.7", help="keep ratios, with commas; 1 is the baseline"
    )
    parser.add_argument("--device", help="torch device; by default the GPU where there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights; by default the faster one on the device")
    parser.add_argument("--attention", choices=ATTENTION_KINDS, default="sdpa", help="attention function of transformers")
    parser.add_argument("--sdpa-backend", choices=BACKENDS, help="kernel behind sdpa; by default the engine chooses")
    parser.add_argument("--seconds", type=float, default=120.0, help="most seconds to spend; the table names what is left out")
    parser.add_argument("--out", type=Path, help="result file, JSON, written after every point")
    return parser


def _listed(item: Callable[[str], Number | str]) -> Callable[[str], tuple[Number | str, ...]]:
    def parse(text: str) -> tuple[Number | str, ...]:
        return tuple(item(part) for part in text.split(","))

    parse.__name__ = "comma-separated list"
    return parse


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def _ratio(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"keep ratio {number} must be in (0, 1]")
    return number
