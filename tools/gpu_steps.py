"""Run the steps of ``gpu_report.sh``, each in a process of its own with a time limit, and sum them up.

    python tools/gpu_steps.py OUT SECONDS < STEPS

Each line of STEPS is ``NAME SECONDS WORD...``. The words after ``profile`` go to ``erecap.profiling``, those after ``pytest`` to
pytest. ``NAME=VALUE`` before them sets an environment variable. A step that fails or takes too long does not stop the others.

The processes fork from this one, which has imported torch and transformers and has not touched the GPU. A step with an environment
variable, or one that finds the GPU in use by this process, starts anew instead.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from erecap.profiling import cli

GRACE_S = 5  # from the request to stop (SIGINT) to the end (SIGKILL)
LEAST_S = 5  # with less time left no step begins
POLL_S = 0.05
MODULES = {"profile": "erecap.profiling", "pytest": "pytest"}


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float
    variables: dict[str, str]
    program: str
    words: list[str]

    @classmethod
    def parse(cls, line: str) -> "Step":
        name, seconds, *rest = shlex.split(line)
        variables = {}
        while rest and "=" in rest[0]:
            key, _, variables[key] = rest.pop(0).partition("=")
        if not rest or rest[0] not in MODULES:
            raise ValueError(f"step {line!r} must name one of {', '.join(MODULES)} after NAME and SECONDS")
        return cls(name, float(seconds), variables, rest[0], rest[1:])

    def run(self) -> int:
        """Run in this process, a fork, and return the exit code."""
        if self.variables or torch.cuda._is_in_bad_fork():
            command = [sys.executable, "-m", MODULES[self.program], *self.words]
            os.execve(sys.executable, command, os.environ | self.variables)
        if self.program == "profile":
            return cli.main(self.words)
        import pytest  # not needed by the profiles

        return int(pytest.main(self.words))


def run_step(step: Step, seconds: float) -> str:
    """Run a step for at most ``seconds`` and say how it ended."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_in_child(step))
    status = _wait(child, began + seconds)
    if status is None:
        os.kill(child, signal.SIGINT)
        status = _wait(child, time.monotonic() + GRACE_S)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    over = ", its time was over" if time.monotonic() - began >= seconds else ""
    return f"{step.name}: exit {os.waitstatus_to_exitcode(status)} after {time.monotonic() - began:.0f} s{over}"


def _in_child(step: Step) -> int:
    """Run the step with stdin closed, and turn what it raises into an exit code. Everything is flushed before the fork ends."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        code = step.run()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _wait(child: int, until: float) -> int | None:
    """Wait for a process until that moment; return its status, or ``None`` where it still runs."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(POLL_S)


def run_all(steps: list[Step], seconds: float) -> Iterator[str]:
    """Run the steps within ``seconds`` in all and yield a line about each."""
    end = time.monotonic() + seconds
    for step in steps:
        limit = min(step.seconds, end - time.monotonic())
        if limit < LEAST_S:
            yield f"{step.name}: left out, the time was over"
            continue
        sys.stdout.write(f"\n== {step.name} (at most {limit:.0f} s): {step.program} {shlex.join(step.words)}\n")
        sys.stdout.flush()
        yield run_step(step, limit)


def main() -> None:
    began, out, seconds = time.monotonic(), Path(sys.argv[1]), float(sys.argv[2])
    steps = [Step.parse(line) for line in sys.stdin if line.strip()]
    lines = []
    try:
        lines.extend(run_all(steps, seconds))
    except KeyboardInterrupt:
        lines.append("stopped")
    sys.stdout.write("\n".join([f"\n== summary ({time.monotonic() - began:.0f} s in all)", *lines, ""]))
    cli.main(["show", *map(str, sorted(out.glob("*.json")))])


if __name__ == "__main__":
    main()
