"""Serve a planner under kvpress' presses as an OpenAI-compatible endpoint, so that erecap's loop plays with it.

    work/kvpress/bin/python tools/peers/kvpress_server.py erecap/bundled/planner --port 8100 &
    OPENAI_API_KEY=none erecap compare --suite household-recall --replay-prompts 0 \
        --backends 'baseline?dtype=float32,openai?base_url=http://127.0.0.1:8100/v1&model=snapkv-0.5'

The environment and the names of models are described in ``kvpress_planner``. Serves ``POST /v1/chat/completions`` with
``stream=true`` and greedy decoding, on this machine only, one answer at a time; anything else is refused with status 400.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import torch
from kvpress_planner import Compression, Planner

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is read of a chat completion's body."""

    model: str
    messages: list[dict[str, str]]
    max_new_tokens: int
    compression: Compression

    @classmethod
    def parse(cls, body: Json) -> "Request":
        """Raises ``ValueError`` for a request that asks for more than greedy streaming."""
        if not body.get("stream") or body.get("temperature", 0) != 0:
            raise ValueError("only streamed, greedy answers are served: ask with stream=true and temperature=0")
        messages, compression = body.get("messages", []), Compression.parse(body.get("model", ""))
        if len(messages) <= compression.history_only:
            raise ValueError(f"{len(messages)} messages leave nothing to compress or to answer: give one more at least")
        return cls(body["model"], messages, int(body.get("max_tokens", 64)), compression)


def chunks(planner: Planner, request: Request) -> Iterator[Json]:
    """The answer as chunks of the OpenAI stream, the last one with the usage."""
    tokens: list[int] = []
    sent = ""
    for token in planner.answer(request.messages, request.compression, request.max_new_tokens):
        tokens.append(token)
        text = planner.text_of(tokens)
        if not text.endswith("\ufffd"):  # a character that is not complete yet
            yield _chunk(request.model, {"content": text[len(sent) :]})
            sent = text
    yield _chunk(request.model, {}, "stop" if tokens[-1] in planner.eos_ids else "length")
    prompt_tokens = len(planner.encode(request.messages))
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(tokens), "total_tokens": prompt_tokens + len(tokens)}
    yield _chunk(request.model) | {"choices": [], "usage": usage}


def _chunk(model: str, delta: Json | None = None, finish_reason: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    """One request. The connection's end is the stream's end, so no length has to be known before it."""

    planner: Planner
    busy = Lock()

    def do_POST(self) -> None:  # http.server's name for it
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            request = Request.parse(body)
        except ValueError as error:
            self._refuse(str(error))
            return
        self._begin(200, "text/event-stream")
        with self.busy:
            for chunk in chunks(self.planner, request):
                self._event(json.dumps(chunk))
        self._event("[DONE]")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: there is one per replan."""

    def _refuse(self, message: str) -> None:
        self._begin(400, "application/json")
        self.wfile.write(json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode())

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planner", help="directory of the model and its tokenizer")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Handler.planner = Planner.load(options.planner, options.dtype)
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
