"""A backend that answers prompts together, importable by worker processes (the tests put this folder on ``sys.path``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner import Generation, LineCallback, PlanRequest, Prompt, PromptTooLongError, Sampling


@dataclass
class Echo:
    """Answers with the number of segments in the prompt, and notes the batches that it got."""

    batches: list[int] = field(default_factory=list)
    too_long: int = 10**9

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        if len(prompt.segments) > self.too_long:
            raise PromptTooLongError(f"{len(prompt.segments)} segments")
        return Generation(text=f"explore\ngoto kitchen\n{'drop' * (len(prompt.segments) % 3)}")

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        self.batches.append(len(requests))
        return [self.generate(request.prompt, request.sampling) for request in requests]


def make_echo(spec: str) -> Echo:
    return Echo()
