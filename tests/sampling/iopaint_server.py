"""A stand-in for IOPaint's HTTP endpoint: it answers as IOPaint does, and paints one colour."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


class StandIn(ThreadingHTTPServer):
    """The server: `model`, the loaded model; `bodies`, what was asked to be painted; `wrong`, how it errs.

    `elsewhere` is where it sends who asks, if it errs so.
    """

    model = "lama"
    wrong = ""
    elsewhere = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        if self.server.wrong == "elsewhere":
            return self._send(b"", 302)
        if self.path == "/api/v1/model":
            self._send(json.dumps({"name": self.server.model, "model_type": "inpaint"}).encode())
        else:
            self._send(b"{}", 404)
        return None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/v1/model":
            self.server.model = body["name"]
            self._send(json.dumps({"name": self.server.model}).encode())
        elif self.path == "/api/v1/inpaint":
            self.server.bodies.append(body)
            self._paint(body)

    def _paint(self, body: dict[str, Any]) -> None:
        image, mask = (Image.open(io.BytesIO(base64.b64decode(body[name]))) for name in ("image", "mask"))
        if image.size != mask.size or self.server.wrong == "status":
            return self._send(b'{"detail":"Image size and mask size not match."}', 400)
        # As IOPaint's, it does not keep what is outside the mask.
        painted = np.where(np.asarray(mask)[..., None] > 127, [200, 30, 60], np.asarray(image) // 2)
        if self.server.wrong == "size":
            painted = painted[1:]
        content = io.BytesIO()
        Image.fromarray(painted.astype(np.uint8)).save(content, "PNG")
        sent = b"<html>" if self.server.wrong == "html" else content.getvalue()
        return self._send(sent, seed=str(body["sd_seed"]))

    def _send(self, content: bytes, status: int = 200, seed: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "image/png" if seed else "application/json")
        if seed:
            self.send_header("X-Seed", seed)
        if status == 302:
            self.send_header("Location", self.server.elsewhere)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A server on a free port, in a thread."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
