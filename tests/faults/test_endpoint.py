"""An endpoint that misbehaves: what it sends is an answer, or an error that says who said what; never an empty plan."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.backends.openai_backend import OpenAIBackend, RemoteBackendError
from benchmarks.backends.registry import BackendFactory, parse_specs
from planner import BackendSpec, Prompt, PromptTooLongError, Sampling, Segment

pytest.importorskip("openai")
ASK = Prompt((Segment("system", "Plan."), Segment("user", "Where is the ball?")))
EVENTS = "text/event-stream"
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


def delta(content, finish=None):
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def events(*chunks, end=DONE):
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


class Endpoint:
    """A server on the loopback interface that answers every request with one status, body and content type."""

    def __init__(self):
        self.asked, self.headers = [], []
        self.status, self.body, self.kind = 200, events(delta("explore", "stop")), EVENTS
        self.going_on = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append(self.headers)
                self.send_response(outer.status)
                self.send_header("Content-Type", outer.kind)
                self.end_headers()
                self.wfile.write(outer.body)
                if outer.going_on is not None:
                    outer.going_on(self.wfile)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def spec(self, options="", user=""):
        return f"openai?base_url=http://{user}127.0.0.1:{self.server.server_port}/v1&model=m&timeout_s=20{options}"

    def ask(self, options="", on_line=None):
        backend = OpenAIBackend.from_spec(BackendSpec.parse(self.spec(options)))
        # an error of the server is final here: the client would wait before it asks again
        backend.client.max_retries = 0
        return backend.generate(ASK, Sampling(max_new_tokens=9, seed=3), on_line)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    made = Endpoint()
    yield made
    made.close()


# ---- answers that are odd, and are answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([{"choices": [{"index": 0, "finish_reason": None}]}, delta("explore"), STOP], "explore"),
        ([{"choices": [{"index": 0, "delta": None}]}, delta("explore"), STOP], "explore"),
        ([{"choices": None}, {"choices": []}, {"choices": [None]}, delta("explore"), STOP], "explore"),
        ([{"ping": 1}, delta(None), delta(""), delta("explore"), STOP], "explore"),
        ([delta([{"type": "text", "text": "goto "}, {"type": "text", "text": "hall"}]), STOP], "goto hall"),
        ([delta(["goto ", "hall"]), delta([{"type": "image"}]), STOP], "goto hall"),
        ([delta({"text": "no"}), delta(7), delta("explore"), STOP], "explore"),
        ([delta("goto \ud83d"), delta("\ude00 hall"), STOP], "goto \U0001f600 hall"),
        ([delta("goto \ud83d hall\udc00"), STOP], "goto \ufffd hall\ufffd"),
        ([delta("explore"), {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}], "explore"),
        ([delta("", "stop")], ""),
    ],
)
def test_odd_chunks_are_understood(endpoint, chunks, text):
    endpoint.body = events(*chunks)
    assert endpoint.ask().text == text


@pytest.mark.parametrize(
    "usage",
    [{}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": "5", "completion_tokens": -1}, [], "none", 7],
)
def test_a_usage_without_numbers_counts_for_nothing(endpoint, usage):
    endpoint.body = events(delta("goto "), delta("hall", "stop"), {"choices": [], "usage": usage})
    answer = endpoint.ask()
    assert (answer.text, answer.prompt_tokens, answer.new_tokens) == ("goto hall", 0, 2)


def test_lines_come_whole(endpoint):
    lines = []
    endpoint.body = events(delta("goto \ud83d"), delta("\ude00\nexp"), delta("lore"), STOP)
    endpoint.ask(on_line=lines.append)
    assert lines == ["goto \U0001f600", "explore"]


def test_an_answer_at_the_limit_is_marked_and_its_last_line_is_not_complete(endpoint):
    lines = []
    endpoint.body = events(delta("explore\ngoto ha", "length"))
    assert endpoint.ask(on_line=lines.append).truncated
    assert lines == ["explore"]


# ---- what is no answer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (EVENTS, b"", "sent no chunk of an answer"),
        (EVENTS, DONE, "sent no chunk of an answer"),
        (EVENTS, events({"ping": 1}), "sent no chunk of an answer, only"),
        (EVENTS, events({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}), "sent no chunk of an answer"),
        ("text/html", b"<html><h1>Sign in to Wi-Fi</h1></html>", "Sign in to Wi-Fi"),
        ("application/json", b'{"choices": [{"message": {"content": "explore"}}]}', "instead of a stream of events.*explore"),
        ("application/json", b'{"error": {"message": "queue is full"}}', "queue is full"),
        ("application/json", b"", r"\(nothing\)"),
        ("text/plain", b"upstream said no", "upstream said no"),
        (EVENTS, b"data: {oops\n\n", "no JSON: {oops"),
        (EVENTS, b"data: <html>502</html>\n\n", "no JSON: <html>502"),
        (EVENTS, b"data: \xff\xfe\n\n", "check base_url"),
        (EVENTS, events([1, 2]), "no chunk of an answer"),
        (EVENTS, events("hello"), "no chunk of an answer.*hello"),
        (EVENTS, events({"choices": "explore"}), "no chunk of an answer.*explore"),
        (EVENTS, events(delta("goto hall"), {"error": {"message": "out of blocks"}}), "out of blocks"),
        (EVENTS, events(delta("goto hall"), {"object": "error", "message": "engine died"}), "engine died"),
        (EVENTS, events(delta("goto ha"), end=b""), "cut.*without a finish_reason.*'goto ha'"),
        (EVENTS, events(delta("goto ha")), "cut.*without a finish_reason"),
        (EVENTS, events(delta("goto ha"), end=b'data: {"choices": [{"del'), "check base_url"),
        (EVENTS, events(delta("goto ha", "error")), "ended its answer with an error"),
    ],
)
def test_what_is_no_answer_is_an_error_with_backend_model_and_words(endpoint, kind, body, said):
    endpoint.kind, endpoint.body = kind, body
    with pytest.raises(RemoteBackendError, match=said) as caught:
        endpoint.ask()
    assert str(caught.value).count(f"'{endpoint.spec()}', model 'm': ") == str(caught.value).count("check base_url") == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            b'{"error": {"message": "Unsupported parameter: max_tokens"}}',
            "HTTP 400: Unsupported parameter: max_tokens; .*max_tokens_name",
        ),
        (401, b'{"error": "bad key"}', "HTTP 401: bad key"),
        (404, b'{"detail": "no such model"}', "HTTP 404: no such model"),
        (422, b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "HTTP 422: field required"),
        (500, b"<html>Internal</html>", "HTTP 500: <html>Internal</html>"),
        (502, b"", "HTTP 502: "),
        (418, b"\xff\xfe", "HTTP 418: "),
    ],
)
def test_a_refusal_has_the_servers_words(endpoint, status, body, said):
    endpoint.status, endpoint.body, endpoint.kind = status, body, "application/json"
    with pytest.raises(RemoteBackendError, match=said):
        endpoint.ask()


def test_a_long_refusal_is_cut(endpoint):
    endpoint.status, endpoint.body, endpoint.kind = 400, b"x" * 100_000, "text/plain"
    with pytest.raises(RemoteBackendError, match=r"x{600}\.\.\.") as caught:
        endpoint.ask()
    assert len(str(caught.value)) < 1_500


# ---- context overflow ------------------------------------------------------------------------------------------------------------

TOO_LONG = [
    (
        400,
        {
            "code": "context_length_exceeded",
            "message": "This model's maximum context length is 8192 tokens. However, you asked for 9000.",
        },
    ),
    (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"}),
    (400, {"message": "input length and `max_tokens` exceed context limit: 199000 + 2000 > 200000"}),
    (413, {"code": "context_length_exceeded", "message": "Request too large"}),
    (500, {"message": "the request exceeds the available context size. try increasing the context size"}),
    (400, {"type": "exceed_context_size_error", "message": "request (5000 tokens) exceeds it", "code": 400}),
    (422, {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 and 64"}),
    (422, {"message": "Input validation error: `inputs` must have less than 1024 tokens. Given: 5000"}),
    (400, {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}),
    (400, {"message": "Requested token count exceeds the model's maximum context length of 4096 tokens."}),
    (400, {"message": "You passed 5000 input tokens. However, the model's context length is only 4096 tokens."}),
    (400, {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."}),
    (400, {"message": "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."}),
    (400, {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
    (400, {"message": "Please reduce the length of the messages or completion."}),
    (400, {"message": "Invalid request: Your request exceeded model token limit: 8192"}),
    (400, {"message": "Input is too long for requested model."}),
    (400, {"message": "too many tokens: the total number cannot exceed 4081"}),
    (400, {"message": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
    (400, {"message": "the input length exceeds the context length"}),
]
UNRELATED = [
    (400, {"message": "unknown field 'context' in the request"}),
    (400, {"message": "context_id is not valid in this context"}),
    (400, {"message": "The context length parameter is not supported"}),
    (400, {"message": "max_tokens is too large: 64000. This model supports at most 16384 completion tokens"}),
    (400, {"message": "Invalid value for 'tokens': expected a string"}),
    (413, {"message": "Request Entity Too Large"}),
    (
        413,
        {
            "code": "rate_limit_exceeded",
            "message": "Request too large for model on tokens per minute (TPM): Limit 6000, Requested 7000",
        },
    ),
    (429, {"message": "Rate limit reached: your request exceeds the tokens per minute"}),
    (400, {"message": "temperature must be less than 2"}),
]


@pytest.mark.parametrize(("status", "error"), TOO_LONG)
def test_a_prompt_that_is_too_long_ends_the_episode(endpoint, status, error):
    endpoint.status, endpoint.body, endpoint.kind = status, json.dumps({"error": error}).encode(), "application/json"
    with pytest.raises(PromptTooLongError, match="model 'm'"):
        endpoint.ask()


@pytest.mark.parametrize(("status", "error"), UNRELATED)
def test_another_refusal_does_not(endpoint, status, error):
    endpoint.status, endpoint.body, endpoint.kind = status, json.dumps({"error": error}).encode(), "application/json"
    with pytest.raises(RemoteBackendError):
        endpoint.ask()


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail": "prompt is too long: 9000 tokens > 8192 maximum"}',
        b'{"message": "This model\'s maximum context length is 8192 tokens"}',
        b"prompt is too long: 9000 tokens > 8192 maximum",
    ],
)
def test_the_wording_is_found_wherever_the_server_puts_it(endpoint, body):
    endpoint.status, endpoint.body, endpoint.kind = 400, body, "application/json"
    with pytest.raises(PromptTooLongError):
        endpoint.ask()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EVENTS, events({"error": {"message": "context full", "code": "context_length_exceeded"}})),
        (EVENTS, events({"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400})),
        ("application/json", b'{"error": {"message": "context full", "code": "context_length_exceeded"}}'),
        ("text/plain", b"prompt is too long: 9000 tokens > 8192 maximum"),
    ],
)
def test_a_prompt_that_is_too_long_may_be_told_under_status_200(endpoint, kind, body):
    endpoint.kind, endpoint.body = kind, body
    with pytest.raises(PromptTooLongError):
        endpoint.ask()


# ---- parameters, limits, connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sent", "missing"),
    [
        ("", {"max_tokens": 9, "temperature": 0.0, "seed": 3, "stream_options": {"include_usage": True}}, ()),
        ("&max_tokens_name=max_completion_tokens", {"max_completion_tokens": 9}, ("max_tokens",)),
        ("&temperature=none&seed=none", {"max_tokens": 9}, ("temperature", "seed")),
        ("&temperature=0.6", {"temperature": 0.6}, ()),
        ("&stream_options=none&max_tokens_name=none", {"stream": True}, ("stream_options", "max_tokens", "none")),
        (
            '&extra={"top_k":20,"chat_template_kwargs":{"enable_thinking":false}}',
            {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}},
            (),
        ),
    ],
)
def test_parameters_are_renamed_left_out_and_added(endpoint, options, sent, missing):
    endpoint.ask(options)
    asked = endpoint.asked[0]
    assert sent.items() <= asked.items()
    assert not set(missing) & set(asked)


def test_a_list_of_backends_may_hold_json():
    specs = ['openai?model=m&extra={"a":1,"b":[2,3]}', "expert"]
    assert parse_specs(",".join(specs)) == specs


def test_a_server_that_keeps_the_line_open_without_an_answer_meets_the_limit(endpoint):
    stop = threading.Event()

    def drip(out):
        while not stop.wait(0.02):
            out.write(b": ping\n\n")
            out.flush()

    endpoint.body, endpoint.going_on = events(delta("goto "), end=b""), drip
    try:
        with pytest.raises(RemoteBackendError, match=r"not complete after 0\.3 s"):
            endpoint.ask("&limit_s=0.3")
    finally:
        stop.set()


def test_a_silent_server_meets_the_read_timeout(endpoint):
    stop = threading.Event()
    endpoint.body, endpoint.going_on = b"", lambda out: stop.wait(5)
    spec = endpoint.spec().replace("timeout_s=20", "timeout_s=0.2")
    backend = OpenAIBackend.from_spec(BackendSpec.parse(spec))
    backend.client.max_retries = 0
    try:
        with pytest.raises(RemoteBackendError, match="timed out"):
            backend.generate(ASK, Sampling())
    finally:
        stop.set()


def test_a_port_without_a_server_is_named_with_the_cause(endpoint):
    spec = endpoint.spec()
    endpoint.close()
    backend = OpenAIBackend.from_spec(BackendSpec.parse(spec))
    backend.client.max_retries = 0
    with pytest.raises(RemoteBackendError, match=r"Connection error.*refused.*check base_url"):
        backend.generate(ASK, Sampling())
    endpoint.__init__()  # so that the fixture has something to close


@pytest.mark.parametrize("proxy", ["nonsense://user:secretword@127.0.0.1:1", "http://user:secretword@127.0.0.1:bad"])
def test_a_bad_proxy_is_a_message_without_its_password(endpoint, monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RemoteBackendError) as caught:
        endpoint.ask()
    assert "secretword" not in str(caught.value)


@pytest.mark.parametrize("key", ["abc\ndef", " abcdef", "schl\u00fcssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(endpoint, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY has white space") as caught:
        endpoint.ask()
    assert key.strip() not in str(caught.value)


def test_a_prompt_with_half_a_character_can_be_sent(endpoint):
    backend = OpenAIBackend.from_spec(BackendSpec.parse(endpoint.spec()))
    backend.generate(Prompt((Segment("user", "a \ud83d b \ud83d\ude00"),)), Sampling())
    assert endpoint.asked[0]["messages"][0]["content"] == "a \ufffd b \U0001f600"


# ---- secrets ---------------------------------------------------------------------------------------------------------------------

USER, PASSWORD, KEY = "janedoe", "hunter2-pw", "sesame-open-4711"


def whole_spec(endpoint):
    return endpoint.spec(f"&api_key={KEY}", user=f"{USER}:{PASSWORD}@")


def hidden(text):
    return not any(secret in text for secret in (USER, PASSWORD, KEY))


def test_a_spec_hides_its_secrets_as_text(endpoint):
    spec = BackendSpec.parse(whole_spec(endpoint))
    assert all(hidden(text) for text in (str(spec), repr(spec), f"{spec}", repr([spec])))
    assert spec.options["api_key"] == KEY
    backend = OpenAIBackend.from_spec(spec)
    assert hidden(repr(backend))
    assert hidden(str(backend.client.base_url))


def test_the_server_gets_the_secrets_and_the_results_do_not(endpoint):
    (public,) = parse_specs(whole_spec(endpoint))
    assert hidden(public)
    factory = BackendFactory()
    assert hidden(repr(factory))
    factory(public).generate(ASK, Sampling())
    assert endpoint.headers[0]["Authorization"].startswith("Basic ")
    (keyed,) = parse_specs(endpoint.spec(f"&api_key={KEY}"))
    BackendFactory()(keyed).generate(ASK, Sampling())
    assert endpoint.headers[1]["Authorization"] == f"Bearer {KEY}"


def test_what_the_server_repeats_is_hidden_in_errors_and_answers(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    echo = f"no key {KEY} of {USER} with {PASSWORD} at http://{USER}:{PASSWORD}@host/v1, Authorization: Bearer {KEY}"
    spec = BackendSpec.parse(whole_spec(endpoint))
    backend = OpenAIBackend.from_spec(spec)
    backend.client.max_retries = 0
    lines = []
    endpoint.body = events(delta(f"goto {KEY[:6]}"), delta(f"{KEY[6:]}\n{PASSWORD}"), STOP)
    answer = backend.generate(ASK, Sampling(), lines.append)
    assert (answer.text, lines) == ("goto ***\n***", ["goto ***", "***"])
    for status, kind, body in (
        (401, "application/json", json.dumps({"error": {"message": echo}}).encode()),
        (500, "text/html", echo.encode()),
        (200, "text/html", echo.encode()),
        (200, EVENTS, f"data: {echo}\n\n".encode()),
        (200, EVENTS, events({"error": {"message": echo}})),
        (200, EVENTS, events(delta(echo))),
    ):
        endpoint.status, endpoint.kind, endpoint.body = status, kind, body
        with pytest.raises(RemoteBackendError) as caught:
            backend.generate(ASK, Sampling())
        assert hidden(str(caught.value)), str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "spec",
    [
        f"openai?base_url=http://{USER}:{PASSWORD}@host/v1&model",
        f"?base_url=http://{USER}:{PASSWORD}@host/v1",
        f"openai?base_url=http://{USER}:{PASSWORD}@host/v1",
        f"openai?base_url=ftp://{USER}:{PASSWORD}@host/v1&model=m",
        f"openai?base_url=http://{USER}:{PASSWORD}@host/v1&model=m&model=m",
        f"openai?model=m&api_key={KEY}&oops=1",
        f"http://{USER}:{PASSWORD}@host/v1",
        f'openai?model=m&extra={{"api_key":"{KEY}"',
    ],
)
def test_errors_about_a_spec_hide_its_secrets(spec):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the messages differ, none may hold a secret
        BackendFactory()(parse_specs(spec)[0])
    assert hidden(str(caught.value))


def test_no_file_of_a_run_holds_a_secret(endpoint, invoke, tmp_path):
    endpoint.body = events(delta(f"goto {PASSWORD}\nexplore"), STOP)
    out = tmp_path / "run"
    result = invoke("run", "--backend", whole_spec(endpoint), "--suite", "smoke", "--episodes", "1", "--out", out)
    assert result.exit_code == 0, result.output
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert all(secret.encode() not in path.read_bytes() for path in files for secret in (USER, PASSWORD, KEY))
    assert hidden(result.output)
