"""A server that speaks the OpenAI wire format, for tests of every room: it serves a tiny model through valign's own generator,
in this process, and misbehaves when it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from valign.errors import ValignError

Fault = Callable[[Any], Any]  # what a request gets in place of its answer: see `Server.faults`


class Server:
    """`url` is its base address; `seen` are (path, body, headers) of the requests, in the order they came.

    faults     what the next requests get: an int (a status), (status, headers, text), bytes (the body of a 200), a number
               of seconds as float (a silence), a function from the reply to another one, or None (the right answer)
    tells      fields that the server knows: "ids", "log_probs"
    busiest    how many requests it had at once
    """

    def __init__(self, model: Any) -> None:
        self.model, self.tells, self.name = model, {"ids", "log_probs"}, "tiny"
        self.faults: deque[Any] = deque()
        self.always: Any = None
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.busy = self.busiest = 0
        self.delay = 0.0
        self.lock, self.model_lock = threading.Lock(), threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def named(self, protocol: str = "vllm", options: str = "") -> str:
        """Its written form as a model's name."""
        return f"{protocol}:{self.name}@{self.url}" + (f"#{options}" if options else "")

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The right reply, from valign's generator."""
        from valign.data.group import Message
        from valign.engine.generator import Generator
        from valign.models.policy import Sampling

        template = self.model.template
        chat = path.endswith("/chat/completions")
        if chat:
            prompt = template.prompt_ids(tuple(Message(m["role"], m["content"]) for m in body["messages"]))
        elif isinstance(body["prompt"], str):
            prompt = template.prompt_ids((Message("text", body["prompt"]),))
        else:
            prompt = body["prompt"]
        sampling = Sampling(
            max_new_tokens=body.get("max_tokens") or body["max_completion_tokens"],
            temperature=body["temperature"], top_p=body["top_p"], top_k=max(0, body.get("top_k", 0)),
            min_p=body.get("min_p", 0), seed=body.get("seed", 0), stop=tuple(body.get("stop", ())),
        )  # fmt: skip
        with self.model_lock:
            generator = Generator(self.model.model, stop_ids=template.stop_ids, decode=template.decode)
            ((sample,),) = generator([prompt], sampling, keys=["server"])
        choice: dict[str, Any] = {"index": 0, "finish_reason": sample.finish, "logprobs": None}
        raw = [float(x) for x in sample.raw]
        if "ids" in self.tells and body.get("return_token_ids"):
            choice["token_ids"] = list(sample.ids)
        if chat:
            choice["message"] = {"role": "assistant", "content": sample.text}
        else:
            choice["text"] = sample.text
        if "log_probs" in self.tells and body.get("logprobs"):
            tokens = [{"token": template.decode([i]), "logprob": x} for i, x in zip(sample.ids, raw)]
            choice["logprobs"] = {"content": tokens} if chat else {"token_logprobs": raw}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(sample.ids)}
        reply: dict[str, Any] = {"choices": [choice], "usage": usage, "model": self.name}
        if "ids" in self.tells and body.get("return_token_ids"):
            (reply if chat else choice)["prompt_token_ids"] = list(prompt)
        return reply

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.seen.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                    fault = server.faults.popleft() if server.faults else server.always
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                try:
                    time.sleep(server.delay)
                    status, headers, text = self._said(fault, body)
                finally:
                    with server.lock:
                        server.busy -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(text)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:  # the client has given up
                    self.close_connection = True

            def _said(self, fault: Any, body: Any) -> tuple[int, dict[str, str], bytes]:
                match fault:
                    case bool() | None:
                        pass
                    case int():
                        return fault, {}, b'{"error": {"message": "scripted"}}'
                    case float():
                        time.sleep(fault)
                    case bytes():
                        return 200, {}, fault
                    case (status, headers, text):
                        return status, headers, text.encode()
                if body.get("model") != server.name:
                    return 404, {}, b'{"error": {"message": "no such model"}}'
                try:
                    reply = server.answer(self.path, body)
                except ValignError as error:
                    return 400, {}, json.dumps({"error": {"message": str(error)}}).encode()
                return 200, {}, json.dumps(fault(reply) if callable(fault) else reply).encode()

        return Handler
