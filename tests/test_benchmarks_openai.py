"""The OpenAI-compatible backend: against a stub client, and against a server on the loopback interface."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from benchmarks.backends.openai_backend import OpenAIBackend, RemoteBackendError
from planner import BackendSpec, Prompt, Sampling, Segment

openai = pytest.importorskip("openai")
ASK = Prompt((Segment("system", "Plan."), Segment("user", "Where is the ball?")))
PIECES = ["goto ", "kitchen\n", "pickup ball", "\n"]


def chunk(content=None, usage=None, finish=None):
    choices = [] if content is None else [SimpleNamespace(delta=SimpleNamespace(content=content), finish_reason=finish)]
    return SimpleNamespace(choices=choices, usage=usage)


class StubClient:
    """Notes what it was asked, and streams ``chunks``."""

    def __init__(self, chunks):
        self.asked = {}
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))
        self._chunks = chunks

    def _create(self, **asked):
        self.asked = asked
        return iter(self._chunks)


def test_an_answer_is_streamed_line_by_line():
    usage = SimpleNamespace(prompt_tokens=12, completion_tokens=5)
    client, lines = StubClient([*map(chunk, PIECES), chunk(usage=usage)]), []
    answer = OpenAIBackend(client, "m").generate(ASK, Sampling(max_new_tokens=9, seed=3), lines.append)
    assert (answer.text, lines) == ("goto kitchen\npickup ball\n", ["goto kitchen", "pickup ball"])
    assert (answer.prompt_tokens, answer.new_tokens, answer.layer_tokens, answer.dropped_tokens) == (12, 5, (), 0)
    assert 0 <= answer.ttft_s <= answer.first_skill_s <= answer.total_s
    assert client.asked["messages"] == ASK.messages()
    assert {"model": "m", "max_tokens": 9, "temperature": 0.0, "seed": 3}.items() <= client.asked.items()


def test_the_last_line_needs_no_newline_and_usage_is_optional():
    lines = []
    client = StubClient([chunk("explore\n\n"), chunk(""), chunk("done", finish="stop")])
    answer = OpenAIBackend(client, "m").generate(ASK, Sampling(), lines.append)
    assert lines == ["explore", "done"]
    assert (answer.prompt_tokens, answer.new_tokens) == (0, 2)


def test_an_empty_answer_is_an_answer():
    answer = OpenAIBackend(StubClient([chunk("", finish="stop")]), "m").generate(ASK, Sampling())
    assert (answer.text, answer.new_tokens, answer.decode_s) == ("", 0, 0.0)


def test_a_fixed_number_of_tokens_cannot_be_asked_for():
    with pytest.raises(ValueError, match="ignore_eos"):
        OpenAIBackend(StubClient([]), "m").generate(ASK, Sampling(ignore_eos=True))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai", "names no model"),
        ("openai?model=", "names no model"),
        ("openai?model=m&base=x", "unknown parameters base"),
        ("openai?model=m&timeout_s=soon", "no number"),
        ("openai?model=m&timeout_s=0", "must be positive"),
        ("openai?model=m&timeout_s=inf", "must be positive and finite"),
        ("openai?model=m&limit_s=nan", "must be positive and finite"),
        ("openai?model=m&temperature=warm", "temperature='warm' is no number"),
        ("openai?model=m&temperature=-1", "temperature='-1' is no number"),
        ("openai?model=m&seed=7", "the only value is none"),
        ("openai?model=m&stream_options=x", "the only value is none"),
        ("openai?model=m&extra=top_k", "no JSON object"),
        ('openai?model=m&extra={"messages":[]}', "extra gives messages"),
        ("openai?model=m&base_url=localhost:8000", "base_url must be http"),
        ("openai?model=m&base_url=http://[::1", "base_url must be http"),
        ("openai?model=m&base_url=http://h:99999/v1", "base_url must be http"),
        ("openai?model=m&api_key=clé", "api_key has white space"),
        ("openai?model=m", "OPENAI_API_KEY"),
    ],
)
def test_bad_parameters_are_refused(monkeypatch, spec, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=message):
        OpenAIBackend.from_spec(BackendSpec.parse(spec))


class _Handler(BaseHTTPRequestHandler):
    """Streams ``PIECES`` as server-sent events for model ``m``; any other model does not exist."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = asked["model"] == "m"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/event-stream" if found else "application/json")
        self.end_headers()
        self.wfile.write(_events() if found else b'{"error": {"message": "no such model"}}')

    def log_message(self, *_):
        pass


def _events():
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [{**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in PIECES]
    usage = {**base, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}}
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*deltas, usage]) + b"data: [DONE]\n\n"


@pytest.fixture
def base_url(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def make(base_url, model="m"):
    return OpenAIBackend.from_spec(BackendSpec.parse(f"openai?base_url={base_url}&model={model}&timeout_s=20"))


def test_the_real_client_against_a_server(base_url):
    answer = make(base_url).generate(ASK, Sampling())
    assert (answer.text, answer.prompt_tokens, answer.new_tokens) == ("goto kitchen\npickup ball\n", 7, 4)


def test_a_refusal_of_the_server_says_what_to_check(base_url):
    with pytest.raises(RemoteBackendError, match=r"no such model.*check base_url"):
        make(base_url, "other").generate(ASK, Sampling())
