"""Google Cloud Storage on this machine: `python -m tests.gcs_emulator PORT` serves the bucket "bucket".

gcp-storage-emulator, and what it lacks: generations of objects as headers, conditional requests, renaming, and the last
byte of what gcsfs uploads if that is a carriage return.
Nobody may use the buckets "private" (403) and "anonymous" (401).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

DENIED = {"private": HTTPStatus.FORBIDDEN, "anonymous": HTTPStatus.UNAUTHORIZED}
SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}
Handler = Callable[[Any, Any, Any], None]


def conditional(handler: Handler) -> Handler:
    """Adds ifGenerationMatch and ifGenerationNotMatch to a handler of requests, and the generation to its answer."""

    def handle(request: Any, response: Any, storage: Any) -> None:
        query = {name: values[0] for name, values in request.query.items()}
        bucket, name = request.params["bucket_name"], request.params.get("object_id", query.get("name"))
        now = generation(storage, bucket, name)
        if status := DENIED.get(bucket):
            response.status = status
            response.json(
                {"error": {"code": status, "message": "Anonymous caller does not have access to the bucket."}}
            )
        elif query.get("ifGenerationMatch", now) != now:
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif query.get("ifGenerationNotMatch") == now:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage)
            response["x-goog-generation"] = generation(storage, bucket, name)

    return handle


def generation(storage: Any, bucket: str, name: str | None) -> str:
    """The generation of an object; "0" where there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def move(request: Any, response: Any, storage: Any) -> None:
    """Renames an object."""
    bucket, name, new = (request.params[key] for key in ("bucket_name", "object_id", "new_id"))
    try:
        storage.create_file(
            bucket, new, storage.get_file(bucket, name), {**storage.get_file_obj(bucket, name), "name": new}
        )
        storage.delete_file(bucket, name)
        response.json(storage.get_file_obj(bucket, new))
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND


def with_line_ends(decode: Callable[[bytes, Any], bytes | None]) -> Callable[[bytes, Any], bytes | None]:
    """Ends the parts of a gcsfs upload by CRLF; the parser would take a part's last \\r and gcsfs's \\n for one."""

    def decoded(body: bytes, request: Any) -> bytes | None:
        body = decode(body, request)
        is_gcsfs = 'boundary="==0=="' in (request.headers.get("Content-Type") or "")
        return body.replace(b"\n--==0==", b"\r\n--==0==") if body and is_gcsfs else body

    return decoded


def serve(port: int) -> None:
    """Serves until the process is ended; from SIGUSR1 to SIGUSR2 it cannot be reached."""
    handlers = (objects.get, objects.download, objects.insert, objects.ls)
    wrapped = {handler: conditional(handler) for handler in handlers}
    rename = (r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<new_id>.+)$", {"POST": move})
    server.HANDLERS = (rename,) + tuple(
        (path, {method: wrapped.get(handler, handler) for method, handler in methods.items()})
        for path, methods in server.HANDLERS
    )
    server._decode_raw_data = with_line_ends(server._decode_raw_data)
    HTTPServer.request_queue_size = 512  # Connections beyond it would wait for seconds.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket("bucket", storage)
    while True:
        api = server.APIThread("127.0.0.1", port, storage)
        api.start()
        signal.sigwait({signal.SIGUSR1})
        api.join()
        signal.sigwait({signal.SIGUSR2})


class Emulator:
    """The emulator in a process of its own, for this process and those that it starts."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        url = f"http://127.0.0.1:{self._port}"
        names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
        os.environ |= dict.fromkeys(names, url)
        os.environ |= {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # They ask other hosts.

    def start(self) -> None:
        """Starts it."""
        command = [sys.executable, "-m", "tests.gcs_emulator", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait_until(True)

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nothing answers while the block runs."""
        self._process.send_signal(signal.SIGUSR1)
        self._wait_until(False)
        yield
        self._process.send_signal(signal.SIGUSR2)
        self._wait_until(True)

    def _wait_until(self, reachable: bool) -> None:
        while self._process.poll() is None:
            with socket.socket() as attempt:
                if (attempt.connect_ex(("127.0.0.1", self._port)) == 0) == reachable:
                    return
            time.sleep(0.02)
        raise RuntimeError("The emulator ended.")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
