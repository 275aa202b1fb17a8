"""A Google Cloud Storage in memory: `python -m tests.gcs_emulator PORT` serves the bucket "bucket".

gcp-storage-emulator, and what it lacks for TensorStore: generations of objects as headers, and conditional requests.
"""

import sys
from collections.abc import Callable
from http import HTTPStatus
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
        if query.get("ifGenerationMatch", now) != now:
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


def serve(port: int) -> None:
    """Serves until the process is ended."""
    wrapped = {handler: conditional(handler) for handler in (objects.get, objects.download, objects.insert)}
    server.HANDLERS = tuple(
        (path, {method: wrapped.get(handler, handler) for method, handler in methods.items()})
        for path, methods in server.HANDLERS
    )
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
