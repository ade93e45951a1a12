"""Time kvpress' presses against the same model without a press: prefill to the first token, a further token, and bytes of KV cache.

    work/kvpress/bin/python tools/peers/kvpress_bench.py erecap/bundled/planner

The environment and the names of models are described in ``kvpress_planner``. Random tokens, all of them pressed. Each round runs
all models in turn and begins with another one; ratios are medians of the ratios within each round, without a press / with it, so
more than 1 is faster. Two rounds of warm-up are left out. The last line of stdout is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from kvpress_planner import Compression, Planner, kv_bytes

WARM_UP_ROUNDS = 2
MODELS = ("none", "snapkv-0.3", "snapkv-0.5", "knorm-0.3", "knorm-0.5", "expected-0.3", "expected-0.5")


@dataclass(frozen=True)
class Sample:
    """One model in one round. TTFT is prefill to the first token known; TPOT seconds per token after it."""

    ttft_s: float
    tpot_s: float
    kv_bytes: int


def measure(planner: Planner, models: Sequence[str], length: int, rounds: int, new_tokens: int) -> dict[str, dict[str, float]]:
    """By model what ``summarize`` says of it, at a prompt of ``length`` random tokens."""
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(0, planner.model.config.vocab_size, (length,), generator=draw).tolist()
    samples: dict[str, list[Sample]] = {name: [] for name in models}
    for number in range(WARM_UP_ROUNDS + rounds):
        turn = number % len(models)
        for name in (*models[turn:], *models[:turn]):
            samples[name].append(sample(planner, ids, Compression.parse(name), new_tokens))
    timed = {name: rows[WARM_UP_ROUNDS:] for name, rows in samples.items()}
    return {name: summarize(timed["none"], rows) for name, rows in timed.items()}


@torch.inference_mode()
def sample(planner: Planner, ids: Sequence[int], compression: Compression, new_tokens: int) -> Sample:
    """One prefill and ``new_tokens`` greedy tokens after its first, whatever they are."""
    start = perf_counter()
    cache, logits = planner.prefill(ids, compression.press, len(ids))
    token = int(logits.argmax())
    first, held = perf_counter(), kv_bytes(cache)
    for step in range(new_tokens):
        token = int(planner.forward([token], len(ids) + step, cache).argmax())
    return Sample(first - start, (perf_counter() - first) / new_tokens, held)


def summarize(without: Sequence[Sample], rows: Sequence[Sample]) -> dict[str, float]:
    """Medians, and medians of paired ratios against ``without`` a press."""
    pairs = list(zip(without, rows, strict=True))
    return {
        "ttft_s": median(row.ttft_s for row in rows),
        "tpot_s": median(row.tpot_s for row in rows),
        "kv_bytes": rows[0].kv_bytes,
        "ttft_speedup_p50": median(base.ttft_s / row.ttft_s for base, row in pairs),
        "tpot_speedup_p50": median(base.tpot_s / row.tpot_s for base, row in pairs),
        "kv_share": rows[0].kv_bytes / without[0].kv_bytes,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planner", help="directory of the model and its tokenizer")
    parser.add_argument("--models", default=",".join(MODELS), help="names separated by commas, none among them")
    parser.add_argument("--lengths", default="2048,4096", help="prompt tokens, separated by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    names, lengths = options.models.split(","), [int(length) for length in options.lengths.split(",")]
    if "none" not in names:
        parser.error(f"--models {options.models}: give none too, which the others are compared with")
    torch.set_num_threads(options.threads)
    planner = Planner.load(options.planner, options.dtype)
    points = {str(length): measure(planner, names, length, options.rounds, options.new_tokens) for length in lengths}
    sys.stdout.write(json.dumps({"dtype": options.dtype, "threads": options.threads, "points": points}) + "\n")


if __name__ == "__main__":
    main()
