"""Ray on this machine, out of reach of others: a Ray that can be reached runs whatever code it is sent."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import ray.util

_TOKEN = secrets.token_hex(32)
"""One for the process: Ray reads it once."""


@contextmanager
def on_loopback() -> Iterator[None]:
    """Has the `ray.init` inside start a Ray that listens on 127.0.0.1 alone, and asks for a token.

    On Linux, Ray takes an address for itself that other machines reach, and listens on every interface; given 127.0.0.1, it turns
    that into the other one. It asks `ray.util` which address it has, and is told loopback here. The token keeps out the other
    users of this machine: Ray asks for one unless RAY_AUTH_MODE is set, and would keep its own in the home folder.
    """
    own = "RAY_AUTH_TOKEN" not in os.environ
    if own:
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    try:
        with patch.object(ray.util, "get_node_ip_address", lambda: "127.0.0.1"):
            yield
    finally:
        if own:  # else `prepare_environment` would take it for that of a cluster
            del os.environ["RAY_AUTH_TOKEN"]
