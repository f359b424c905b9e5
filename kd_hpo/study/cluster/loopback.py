"""Ray on this machine, out of reach of others: a Ray that can be reached runs whatever code it is sent."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants

_TOKEN = secrets.token_hex(32)
"""One for the process: Ray reads it once."""


@contextmanager
def on_loopback() -> Iterator[None]:
    """Around the `ray.init` that starts Ray here: all that it starts listens on 127.0.0.1, and asks for a token.

    On Linux, Ray 2.60 turns 127.0.0.1 into an address that other machines reach, and listens on every interface. It stays on
    loopback where it forms no clusters, which this constant says. The token keeps out the other users of this machine: Ray
    asks for one unless RAY_AUTH_MODE is set, and would keep its own in the home folder.
    """
    own = "RAY_AUTH_TOKEN" not in os.environ
    if own:
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if own:  # else `prepare_environment` would take it for that of a cluster
            del os.environ["RAY_AUTH_TOKEN"]
