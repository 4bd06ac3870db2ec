"""A real web server on this machine, with ranges, whose faults a test can order."""

import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FileServer:
    """What it serves, and how.

    Attributes:
        folder: of the files.
        address: without slash at the end.
        ranges: whether it answers requests for a part with that part.
        busy: answers of 503 still to be given.
        cut: answers still to be cut after half of what they promise.
        requests: name -> how often it was asked for.
    """

    folder: Path
    address: str = ""
    ranges: bool = True
    busy: int = 0
    cut: int = 0
    requests: Counter[str] = field(default_factory=Counter)


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    state = FileServer(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests[self.path.rpartition("/")[2]] += 1
            if state.busy:
                state.busy -= 1
                self.send_error(503)
                return
            path = state.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, start = path.read_bytes(), 0
            if state.ranges and "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            content = content[start:]
            if state.cut:
                state.cut -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
