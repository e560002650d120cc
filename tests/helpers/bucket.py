"""An S3 server that runs here (moto's), with faults put in on request."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Fault = Callable[[dict[str, Any]], str]
"""What becomes of a request, a WSGI environment: "" nothing, or one of 500, slow, half, refused."""
NAME = "bucket"


class Bucket:
    """A bucket behind a server of its own, and the requests that it has had.

    Attributes:
        fault: decides on each request.
        asked: method and path of each.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault = lambda request: ""
        self.asked: list[str] = []
        self._server: Any = None
        self.port = 0
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, until it is started again; what is stored stays."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        kind = self.fault(environ)
        if kind == "500":
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return []
        if kind == "refused":
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        if kind == "slow":
            time.sleep(0.3)
        if kind == "half":
            # The server stores half of what it is sent, and says that all is well.
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            half = body[: len(body) // 2]
            kept = {
                key: value for key, value in environ.items() if "CHECKSUM" not in key and "MD5" not in key
            }
            environ = {**kept, "wsgi.input": io.BytesIO(half), "CONTENT_LENGTH": str(len(half))}
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def keys(self) -> dict[str, int]:
        """Size by key."""
        import fsspec

        found = self.filesystem(fsspec).find(NAME, detail=True)
        return {key.removeprefix(f"{NAME}/"): entry["size"] for key, entry in found.items()}

    def filesystem(self, fsspec: Any) -> Any:
        return fsspec.filesystem(
            "s3",
            key="key",
            secret="secret",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )


def fault_of(left: dict[str, int]) -> Fault:
    """Faults that a key asks for: of the writes below ``KIND-N/`` the first N come to this end."""

    def fault(request: dict[str, Any]) -> str:
        asked = re.search(r"/(500|slow|half|refused)-(\d+)/", request["PATH_INFO"])
        if asked is None or request["REQUEST_METHOD"] not in ("PUT", "POST"):
            return ""
        place = request["PATH_INFO"].partition(asked[0])[0] + asked[0]
        left[place] = left.get(place, int(asked[2])) - 1
        return asked[1] if left[place] >= 0 else ""

    return fault


def main() -> None:
    """Serve until standard input ends; prints the port."""
    with bucket_server() as bucket:
        bucket.fault = fault_of({})
        print(bucket.port, flush=True)
        sys.stdin.read()


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """A server with one bucket, which has what an earlier server of this process left in it."""
    import fsspec

    bucket = Bucket()
    try:
        with suppress(FileExistsError):
            bucket.filesystem(fsspec).mkdir(NAME)
        bucket.asked.clear()
        yield bucket
    finally:
        bucket.stop()


if __name__ == "__main__":
    main()
