"""A server in a thread of the test, on a loopback address, and a small model for it. No test is in here."""

import json
import socket
import threading
from contextlib import contextmanager

import numpy as np
import requests
from support.dumps import wide_params

from numgpt.config import Config
from numgpt.hub.loading import load_tokenizer
from numgpt.model import Model
from numgpt.serve.app import Server
from numgpt.serve.guard import access_for
from numgpt.serve.running import bind, process_of


def small(n_ctx=64, seed=0, n_vocab=None):
    """A random model of two layers, with the storyteller's tokenizer."""
    tokenizer = load_tokenizer("storyteller")
    config = Config(n_vocab=n_vocab or len(tokenizer), n_ctx=n_ctx, n_embd=12, n_head=3, n_layer=2, eos_token_id=4095)
    params = wide_params(config, seed)
    params["wte"] *= np.float32(0.4)  # so that many tokens are likely
    return Model(config, params, tokenizer)


class Client:
    """Asks a server."""

    def __init__(self, port, server):
        self.port, self.server, self.url = port, server, f"http://127.0.0.1:{port}"

    def get(self, path, **options):
        return requests.get(self.url + path, timeout=60, **options)

    def post(self, path="/v1/completions", *, headers=None, data=None, as_it_comes=False, **body):
        """POST fields, or data as it is."""
        data = json.dumps(body).encode() if data is None else data
        headers = {"Content-Type": "application/json", **(headers or {})}
        return requests.post(self.url + path, data=data, headers=headers, stream=as_it_comes, timeout=60)

    def complete(self, **body):
        """Return the answer to a completion, which has to come."""
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, **body):
        """Return the events of a stream, which has to end with [DONE]."""
        with self.post(as_it_comes=True, stream=True, **body) as answer:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            *lines, last = [line[6:] for line in answer.iter_lines() if line]
        assert last == b"[DONE]"
        return [json.loads(line) for line in lines]

    def raw(self, data, seconds=20):
        """Send bytes, and return all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            found = b""
            while part := connection.recv(65536):
                found += part
        return found


@contextmanager
def served(model, name="small", hosts=(), origins=(), api_key=None, grace=5, **limits):
    """Serve a model as long as the block runs, and give a Client."""
    listening = bind("127.0.0.1", 0)
    server, ready = Server(model, name, **limits), threading.Event()
    process = process_of(server, access_for("127.0.0.1", hosts, origins, api_key), grace, ready.set)
    thread = threading.Thread(target=lambda: process.run(sockets=[listening]))
    port = listening.getsockname()[1]
    thread.start()
    try:
        assert ready.wait(20)
        yield Client(port, server)
    finally:
        process.handle_exit(2, None)
        process.handle_exit(2, None)
        thread.join(20)
        assert not thread.is_alive()
