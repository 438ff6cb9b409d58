"""A fault-injecting proxy: it forwards requests to a real server and answers a share of them with a fault.

It counts how often each request (by the hash of its body) reached the server, and how often a whole reply was delivered
to a client that was still connected.
"""

import hashlib
import http.client
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

NANO = Path(__file__).parents[1] / "mentorlib/students/nano"
FAULTS = ("429", "500", "reset", "cut", "slow", "garbled", "abort")


class Proxy(ThreadingHTTPServer):
    """A proxy of ``upstream`` (http://host:port); a share of requests, drawn from a seed, gets one of ``faults``.

    ``slow``: seconds for which a slow reply is delayed. ``plan``: faults (or None) for the first requests, in order,
    before any is drawn. ``gone`` resets every connection. A request with ``failing_text`` in it always gets HTTP 500.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, share: float = 0.0, faults=FAULTS, slow: float = 3.0, seed: int = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.share, self.faults, self.slow = urlsplit(upstream).netloc, share, faults, slow
        self.plan: list[str | None] = []
        self.gone, self.failing_text = False, ""
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.injected: Counter[str] = Counter()  # faults
        self.reached: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.keys: set[str] = set()  # Authorization headers seen
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def draw(self, body: str) -> str | None:
        with self.lock:
            if self.failing_text and self.failing_text in body:
                fault = "500"
            elif self.plan:
                fault = self.plan.pop(0)
            elif self.random.random() < self.share:
                fault = self.random.choice(self.faults)
            else:
                fault = None
            if fault:
                self.injected[fault] += 1
        return "reset" if self.gone else fault

    def handle_error(self, request, client_address) -> None:
        pass  # clients that were killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *words) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        key = hashlib.sha256(body).hexdigest()
        proxy, fault = self.server, self.server.draw(body.decode())
        proxy.keys.add(self.headers.get("authorization", ""))
        if fault == "429":
            return self.send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.2"})
        if fault == "500":
            return self.send(500, b"oh")
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if fault and fault not in (*FAULTS, "content_filter"):  # a status and a message: "401 no such key"
            status, _, message = fault.partition(" ")
            return self.send(int(status), json.dumps({"error": {"message": message}}).encode())
        connection = http.client.HTTPConnection(proxy.upstream, timeout=120)
        connection.request("POST", self.path, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        with proxy.lock:
            proxy.reached[key] += 1
        if fault == "slow":
            time.sleep(proxy.slow)
            self.close_connection = True
            return None
        if fault == "garbled":
            return self.send(200, text[: len(text) // 2] + b"\xff{")
        if fault in ("abort", "content_filter"):  # HTTP 200 with an empty message
            body = json.loads(text)
            body["choices"][0] |= {"finish_reason": fault, "message": {"role": "assistant", "content": ""}}
            return self.send(200, json.dumps(body).encode())
        if fault == "cut":
            self.send(200, text, length=len(text), cut=len(text) // 2)
            self.close_connection = True
            return None
        if self.disconnected():
            self.close_connection = True
            return None
        self.send(reply.status, text)
        if reply.status == 200:
            with proxy.lock:
                proxy.delivered[key] += 1
        return None

    def disconnected(self) -> bool:
        """Whether the client closed the connection (killed, or timed out), so that no reply can reach it."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False  # connected, with nothing to read
        except OSError:
            return True

    def do_GET(self) -> None:
        self.send(200, b'{"object": "list", "data": [{"id": "nano", "object": "model"}]}')

    def send(self, status: int, body: bytes, headers=None, length: int | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body[:cut])


@contextmanager
def transformers_serve(log: Path) -> Iterator[str]:
    """``transformers serve`` with the nano student on loopback, in a separate process; yields http://host:port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    words = ["serve", str(NANO), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with open(log, "wb") as out:
        process = subprocess.Popen([sys.executable, "-c", serve, *words], stdout=out, stderr=out)
    try:
        for _ in range(6_000):  # a busy machine takes minutes to import it
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise TimeoutError(f"no server after ten minutes: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
