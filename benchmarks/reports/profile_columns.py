"""What the columns of profile results mean, for the report's page."""

import re
from collections.abc import Iterable

_QUANTILES = {
    "mean": "mean",
    "std": "standard deviation",
    "median": "median",
    "p25": "lower quartile",
    "p75": "upper quartile",
    "p99": "99th percentile",
}
_TIMES = {
    "ttft": "time to the first token",
    "new_ttft": "time to the first token on lengths that the process had not run",
    "stock_ttft": "time to the first token of transformers' own generate",
    "tpot": "time per further token",
    "itl": "time between two tokens",
    "e2el": "time of the whole answer",
}
_SHORT = {
    "ttft ms": "time to the first token, median",
    "kept": "mean share of the prompt's tokens that a layer sees",
    "of ceiling": "speedup / ceiling",
    "new ms": "time to the first token on lengths that the process had not run, median",
    "new speedup": "speedup on such lengths",
    "of met": "that speedup / the speedup on lengths that were run before",
    "stock ms": "time to the first token of transformers' own generate, median",
    "GFLOP/s": "FLOPs of matrices and attention / median time",
    "of matmul": "that rate / the rate of a large matrix product on this machine",
    "stages": "share of the prefill that scoring, selecting and dropping take",
    "KV MB": "keys and values after the prefill",
    "tpot ms": "time per further token, median",
    "p99 itl": "time between two tokens, 99th percentile, ms",
    "e2e ms": "time of the whole answer, median",
    "prefill": "share of the answer's time until the first token",
    "floor ms": "time to read the weights once; no token can take less",
    "of floor": "that time / median time per token",
    "same": "tokens equal to the first decoder's before the first that differs, of all",
    "prefill MB": "peak of memory without what was there before the prefill",
    "formula MB": "the same by formula",
    "of formula": "peak / formula",
    "peak GB": "peak of memory",
    "formula GB": "the same by formula",
    "seconds": "seconds of one prefill, not warmed up",
    "part": "part of the model",
    "size": "size of the message",
    "time us": "time of a message one way, or of an all-reduce, median",
    "quartiles": "its quartiles",
    "GB/s": "bandwidth of the row; of an all-reduce algbw",
    "busbw GB/s": "algbw x 2 (n - 1) / n for n processes (nccl-tests)",
    "predicted ttft ms": "PREDICTED time to the first token",
    "compute ms": "PREDICTED time of FLOPs alone",
    "read ms": "PREDICTED time of reading weights alone",
    "traffic ms": "PREDICTED time of traffic between devices",
    "traffic MB": "bytes over all boundaries (pipeline), or that each device sends (tensor)",
    "over one": "PREDICTED time of one device with the same keep ratio / time",
    "over one unpruned": "PREDICTED time of one device without pruning / time",
    "over unpruned": "PREDICTED time of the same devices without pruning / time",
    "predicted tpot ms": "PREDICTED time per further token, as the engine decodes",
    "captured ms": "PREDICTED time per further token, were the step captured as a CUDA graph",
}
"""Columns of the short tables that the terminal shows too."""

COLUMNS = _SHORT | {
    "prompt_tokens": "length of the prompt in tokens",
    "keep": "keep ratio of each stage, of the tokens that reach it; 1 is no pruning",
    "status": "ok, or why there is no figure",
    "rounds": "timed rounds",
    "decoder": "how tokens are decoded: the engine's own way (eager), or one captured CUDA graph",
    "first_ttft_ms": "time of the first prefill at this length",
    "speedup": "time without pruning / time, median over rounds",
    "p25_speedup": "its lower quartile",
    "p75_speedup": "its upper quartile",
    "first_speedup": "speedup of the first prefills at this length",
    "ceiling": "most that the dropped tokens can gain: FLOPs without pruning / FLOPs",
    "share_of_ceiling": "speedup / ceiling",
    "kept_share": "mean share of the prompt's tokens that a layer sees",
    "final_share": "share of the prompt's tokens that the last layer sees",
    "analytic_flops": "FLOPs from the model's config, with scorers and logits",
    "counted_flops": "FLOPs counted by torch",
    "prefill_flops": "FLOPs of matrices and attention",
    "achieved_flops_per_s": "these FLOPs / median time",
    "share_of_matmul": "that rate / the rate of a large matrix product on this machine",
    "kv_bytes": "bytes of keys and values after the prefill",
    "peak_memory_bytes": "peak of the device's memory",
    "prefill_bytes": "peak of memory without what was there before the prefill",
    "formula_bytes": "peak by formula",
    "formula_prefill_bytes": "peak by formula, without the weights",
    "reserved_bytes": "peak of what torch's allocator took from the device",
    "ttft_s": "seconds of one prefill, not warmed up",
    "scoring_share": "share of the prefill's time that scoring takes",
    "selecting_share": "share that choosing the survivors takes",
    "dropping_share": "share that dropping the others takes",
    "output_tokens": "decoded tokens",
    "output_throughput": "decoded tokens per second",
    "total_token_throughput": "decoded and prompt tokens per second",
    "prefill_share": "share of the answer's time until the first token",
    "weight_read_bytes": "weights that a decode step reads",
    "floor_tpot_ms": "time to read them once at the measured copy rate; no token can take less",
    "share_of_floor": "that time / median time per token",
    "tokens_like_first_decoder": "tokens equal to the first decoder's before the first that differs",
    "capture_s": "seconds to capture the CUDA graph",
    "captured": "whether the step was captured as a CUDA graph",
    "untraced_ms": "time without the profiler",
    "device_ms": "time of all kernels on the device",
    "kernel_count": "kernels on the device",
    "matmul_size": "width of the square matrices",
    "matmul_dtype": "their dtype",
    "matmul_flops_per_s": "rate of their product",
    "copy_size_bytes": "size of the copy",
    "copy_bytes_per_s": "rate of the copy, bytes read plus written",
    "kernel": "kernel of torch's attention function",
    "tokens": "tokens",
    "attention_ms": "time of one layer's attention",
    "attention_flops_per_s": "rate, by causal pairs",
    "test": "what was measured: send, all_reduce, or a copy",
    "source": "process that sends",
    "target": "process that receives",
    "processes": "processes that take part",
    "size_bytes": "size of the message",
    "bandwidth_bytes_per_s": "bytes per second, one way",
    "algbw_bytes_per_s": "size / time (nccl-tests)",
    "busbw_bytes_per_s": "algbw x 2 (n - 1) / n for n processes (nccl-tests); comparable with the bandwidth of a link",
    "correct": "whether the values that arrived were right",
    "peer_access": "whether one GPU can read the other's memory directly",
    "parallel": "how the model is spread: single, pipeline (layers over devices) or tensor (each layer over all)",
    "devices": "number of devices",
    "needed_bytes": "weights, keys and values on the fullest device; activations are left out",
    "layers": "layers between two stages of the pruning schedule",
    "predicted_ttft_ms": "PREDICTED time to the first token",
    "predicted_compute_ms": "PREDICTED time of FLOPs alone",
    "predicted_read_ms": "PREDICTED time of reading weights alone",
    "predicted_busy_ms": "PREDICTED time of all layers: of each the longest of compute, reading and launching",
    "predicted_traffic_ms": "PREDICTED time of traffic between devices",
    "predicted_tpot_ms": "PREDICTED time per further token, as the engine decodes",
    "predicted_captured_tpot_ms": "PREDICTED time per further token, were the step captured as a CUDA graph",
    "predicted_step_traffic_ms": "PREDICTED time of traffic per further token",
    "prefill_traffic_bytes": "bytes over all boundaries (pipeline), or that each device sends (tensor), in a prefill",
    "step_traffic_bytes": "the same for one further token",
    "predicted_speedup_over_single": "PREDICTED time of one device with the same keep ratio / time",
    "predicted_speedup_over_single_baseline": "PREDICTED time of one device without pruning / time",
    "predicted_speedup_over_baseline": "PREDICTED time of the same devices without pruning / time",
    "file": "result file that the model is held against",
    "quantity": "what was measured",
    "measured_ms": "measured (or stated) time",
    "predicted_ms": "PREDICTED time",
    "error": "predicted / measured - 1",
    "held_out_error": "the same after a fit without the prompts of this length",
    "stock_over_baseline": "time of transformers' generate / time of the engine without pruning",
    "p25_stock_over_baseline": "its lower quartile",
    "p75_stock_over_baseline": "its upper quartile",
    "new_speedup": "speedup on lengths that the process had not run",
    "new_speedup_of_met": "that speedup / the speedup on lengths that were run before",
    "new_lengths": "number of new lengths",
    "what": "what was measured or checked",
    "of": "of what",
    "rate": "its rate",
    "ms": "its time",
    "found": "what was found",
    "remedy": "what to do",
    "figure": "figure of the machine",
    "value": "its value",
    "basis": "measured here, published, stated by the seed, given by an option, carried over from another machine, or assumed",
}
"""Explanations by column. Columns of quantiles are explained by their parts."""


def explain(column: str) -> str | None:
    """Explain a column; ``None`` for an unknown one."""
    if column in COLUMNS:
        return COLUMNS[column]
    time = re.fullmatch(rf"(?P<quantile>{'|'.join(_QUANTILES)})_(?P<what>\w+)_ms", column)
    if time and time["what"] in _TIMES:
        return f"{_TIMES[time['what']]}, {_QUANTILES[time['quantile']]}"
    test = re.fullmatch(rf"(?P<quantile>{'|'.join(_QUANTILES)})_time_us", column)
    if test:
        return f"time of a message one way, or of an all-reduce, {_QUANTILES[test['quantile']]}"
    if re.fullmatch(r"keep [\d.]+ (ms|share)", column):
        return "time on the device at this keep ratio, or its share"
    quantile = re.fullmatch(r"p(?P<share>25|75)_(?P<column>\w+)", column)
    return f"quartile of {quantile['column']}" if quantile and quantile["column"] in COLUMNS else None


def explained(columns: Iterable[str]) -> list[tuple[str, str]]:
    """Return each column with its explanation, in order, once; an unknown one says that it has none."""
    return [(column, explain(column) or "not explained here: see docs/profiling.md") for column in dict.fromkeys(columns)]
