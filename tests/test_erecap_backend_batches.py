"""Prompts answered together get the answers that they get alone."""

import pytest
import torch

import erecap.answering.engine as backend_module
from erecap.backend import make_backend
from erecap.engine.prefill import prefill
from erecap.models.device import resolve_device
from planner import BackendSpec, BatchBackend, Generation, History, PlanRequest, Prompt, PromptTooLongError, Sampling, build_prompt

GREEDY = Sampling(24)
SPECS = ("baseline", "erecap?keep=0.7", "erecap?keep=0.5&stages=0-5", "erecap?keep=0.7&rule=chunk_top_k", "baseline?last=2")


def prompt_of(turns: int) -> Prompt:
    history = History().append("task", "Task: 1. bring red ball to kitchen.")
    for turn in range(turns):
        history = history.append("observation", f"Room: hall. See: box {turn}, ball.").append("plan", "goto kitchen\nexplore")
    return build_prompt(history.append("observation", "Room: attic. See: key."))


def facts(answer: Generation) -> tuple[object, ...]:
    return answer.token_ids, answer.text, answer.prompt_tokens, answer.layer_tokens, answer.stage_tokens, answer.truncated


@pytest.fixture(scope="module", params=SPECS)
def backend(request: pytest.FixtureRequest) -> BatchBackend:
    made = make_backend(BackendSpec.parse(f"{request.param}{'&' if '?' in request.param else '?'}dtype=float32"))
    assert isinstance(made, BatchBackend)
    return made


def test_a_batch_gives_what_each_prompt_gets_alone(backend: BatchBackend) -> None:
    lines: list[str] = []
    requests = [PlanRequest(prompt_of(turns), GREEDY) for turns in (9, 2, 30)]
    requests.append(PlanRequest(prompt_of(5), Sampling(24, avoid=("explore", "goto"))))
    requests.append(PlanRequest(prompt_of(5), Sampling(7, temperature=0.9, seed=4), lines.append))
    together = backend.generate_batch(requests)
    alone = [backend.generate(request.prompt, request.sampling) for request in requests]
    assert [facts(answer) for answer in together] == [facts(answer) for answer in alone]
    assert [answer.kv_bytes for answer in together] == [answer.kv_bytes for answer in alone]
    assert lines == [line for line in together[-1].text.split("\n") if line.strip()]


def test_a_batch_that_would_be_too_large_is_divided(backend: BatchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [PlanRequest(prompt_of(turns), GREEDY) for turns in (1, 9, 2)]
    whole = backend.generate_batch(requests)
    sizes: list[int] = []

    def counted(model, prompts, *rest):  # type: ignore[no-untyped-def]
        sizes.append(len(prompts))
        return prefill(model, prompts, *rest)

    monkeypatch.setattr(backend_module, "prefill", counted)
    monkeypatch.setattr(backend_module, "BATCH_BYTES", {"cpu": 1, resolve_device().type: 1})
    assert [facts(answer) for answer in backend.generate_batch(requests)] == [facts(answer) for answer in whole]
    assert sizes == [1, 1, 1]


def test_one_prompt_too_long_is_said(backend: BatchBackend) -> None:
    with pytest.raises(PromptTooLongError, match="positions"):
        backend.generate_batch([PlanRequest(prompt_of(1), GREEDY), PlanRequest(prompt_of(1), Sampling(100_000))])


def test_no_prompts_have_no_answers(backend: BatchBackend) -> None:
    assert backend.generate_batch([]) == []


def test_rows_that_draw_need_the_same_seed_only() -> None:
    torch.manual_seed(0)
    backend = make_backend(BackendSpec.parse("baseline?dtype=float32"))
    assert isinstance(backend, BatchBackend)
    requests = [PlanRequest(prompt_of(3), Sampling(8, temperature=1.0, seed=seed)) for seed in (1, 2, 1)]
    first, second, third = backend.generate_batch(requests)
    assert first.token_ids == third.token_ids
    assert second.token_ids == backend.generate(requests[1].prompt, requests[1].sampling).token_ids
