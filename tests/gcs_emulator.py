"""Google Cloud Storage on this machine: `python -m tests.gcs_emulator PORT FOLDER` serves the bucket "bucket".

gcp-storage-emulator, and what it lacks for TensorStore: generations of objects as headers, and conditional requests.
Nobody may use the bucket "private".
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

Handler = Callable[[Any, Any, Any], None]


def conditional(handler: Handler) -> Handler:
    """Adds ifGenerationMatch and ifGenerationNotMatch to a handler of requests, and the generation to its answer."""

    def handle(request: Any, response: Any, storage: Any) -> None:
        query = {name: values[0] for name, values in request.query.items()}
        bucket, name = request.params["bucket_name"], request.params.get("object_id", query.get("name"))
        now = generation(storage, bucket, name)
        if bucket == "private":
            response.status = HTTPStatus.UNAUTHORIZED
            response.json({"error": {"code": 401, "message": "Anonymous caller does not have access to the bucket."}})
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


def serve(port: int, folder: str) -> None:
    """Serves until the process is ended; folder: that of the objects."""
    handlers = (objects.get, objects.download, objects.insert, objects.ls)
    wrapped = {handler: conditional(handler) for handler in handlers}
    server.HANDLERS = tuple(
        (path, {method: wrapped.get(handler, handler) for method, handler in methods.items()})
        for path, methods in server.HANDLERS
    )
    server.create_server("127.0.0.1", port, data_dir=folder, default_bucket="bucket").run()


class Emulator:
    """The emulator in a process of its own, for this process and those that it starts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        url = f"http://127.0.0.1:{self._port}"
        os.environ |= {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        os.environ |= {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # They ask other hosts.

    def start(self) -> None:
        """Starts it, with the objects that the folder holds."""
        command = [sys.executable, "-m", "tests.gcs_emulator", str(self._port), str(self._folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            with socket.socket() as attempt:
                if not attempt.connect_ex(("127.0.0.1", self._port)):
                    return
            assert self.process.poll() is None
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it without warning."""
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
