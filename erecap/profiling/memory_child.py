"""One prefill in a process of its own, for the peak of the resident set on a CPU.

A process that has run a larger prefill keeps its memory, so every reading needs a fresh one. The processes fork from a server that
has imported torch and transformers, and has computed nothing.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from erecap.engine.prefill import prefill
from erecap.models import host_memory
from erecap.models.out_of_memory import out_of_memory
from erecap.profiling.results import Row
from erecap.profiling.shapes import make_random_prompt, weight_bytes
from erecap.profiling.variants import Variant

WARM_UP_TOKENS = 64
"""Prompt length of the prefill that loads libraries before the measured one."""

_FIRST_TO_END = Path("/proc/self/oom_score_adj")  # which process Linux ends first when memory runs out

Make = Callable[[], tuple[PreTrainedModel, Variant]]
"""Makes the model and the variant in the new process; can be pickled."""


def measure_in_child(
    make: Make, length: int, threads: int, limit_bytes: int | None, seconds: float, preload: Sequence[str] = ()
) -> Row:
    """Prefill ``length`` tokens in a fresh process and return what it measured.

    Parameters
    ----------
    make
        Makes model and variant.
    length
        Prompt length in tokens.
    threads
        CPU threads of torch.
    limit_bytes
        Most memory that the process may hold, model included; ``None`` for no limit.
    seconds
        Seconds after which the process is ended.
    preload
        Modules that the main module imports, to start processes faster.

    Returns
    -------
    dict
        ``status``. Where it is ``ok`` also ``ttft_s``, ``kv_bytes``, ``weight_bytes``, ``resident_before_bytes`` (the resident set
        before the prefill), ``peak_memory_bytes`` (its peak) and ``prefill_bytes``, the difference.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, make, length, threads, limit_bytes), daemon=True)
    with _interrupts_held():
        child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {"status": "left out: it took longer than --seconds allows"}
        answer: Row | Exception = receiver.recv()
    except (EOFError, ConnectionResetError):
        child.join()
        return {"status": f"out of memory: the process was ended ({_ending(child.exitcode)})"}
    finally:
        child.kill()
        child.join()
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back. Processes that are started here never get one; this one gets it at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(exit_code: int | None) -> str:
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"


def _serve(pipe: Connection, make: Make, length: int, threads: int, limit_bytes: int | None) -> None:
    """Measure and send the row, or a user's error. A process that runs out of memory may die before it can send anything."""
    if _FIRST_TO_END.is_file():
        _FIRST_TO_END.write_text("1000", encoding="ascii")
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers, while weights are read
    host_memory.return_freed_blocks()
    torch.set_num_threads(threads)
    try:
        pipe.send(_measure(make, length, limit_bytes))
    except ValueError as error:
        pipe.send(ValueError(str(error)))
    except (RuntimeError, MemoryError) as error:
        status = out_of_memory(error)
        if status is None:
            raise
        pipe.send({"status": status})


def _measure(make: Make, length: int, limit_bytes: int | None) -> Row:
    model, (schedule, selector) = make()
    prompt = make_random_prompt(model, length)
    with torch.inference_mode():
        prefill(model, make_random_prompt(model, WARM_UP_TOKENS), schedule, selector)
        host_memory.reset_peak_resident()
        before = host_memory.resident_bytes()
        if limit_bytes is not None:
            host_memory.limit_growth(limit_bytes - before)
        began = perf_counter()
        result = prefill(model, prompt, schedule, selector)
        result.logits.argmax(-1).tolist()
        seconds = perf_counter() - began
    peak = host_memory.peak_resident_bytes()
    return {
        "status": "ok",
        "ttft_s": seconds,
        "kv_bytes": result.kv_bytes,
        "weight_bytes": weight_bytes(model),
        "resident_before_bytes": before,
        "peak_memory_bytes": peak,
        "prefill_bytes": peak - before,
    }
