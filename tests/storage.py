"""S3-compatible storage of the tests' own, on loopback: moto, which counts what it is asked for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "kd-images"
KEYS = {"AWS_ACCESS_KEY_ID": "kd-hpo", "AWS_SECRET_ACCESS_KEY": "of-the-test", "AWS_DEFAULT_REGION": "us-east-1"}


class Storage:
    """One bucket. What a process reads of it needs the environment that `storage` sets."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.got = endpoint, list[str]()
        """The keys that were asked for with their content."""
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="kd-hpo", aws_secret_access_key="of-the-test", region_name="us-east-1"
        )

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def put_folder(self, folder: Path, prefix: str) -> None:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())

    def take_got(self) -> list[str]:
        got, self.got = self.got, []
        return sorted(got)


@contextmanager
def running_storage() -> Iterator[Storage]:
    """Named by the environment while the context is open."""
    moto = DomainDispatcherApplication(create_backend_app)
    storage: Storage

    def counting(environ: dict[str, str], start_response: object) -> object:
        _, _, key = environ["PATH_INFO"].partition(f"/{BUCKET}/")
        if key and environ["REQUEST_METHOD"] == "GET" and "list-type" not in environ["QUERY_STRING"]:
            storage.got.append(key)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    storage = Storage(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": storage.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        storage.client.create_bucket(Bucket=BUCKET)
        try:
            yield storage
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
