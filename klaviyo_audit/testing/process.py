"""A `FakeKlaviyo` as a process of its own, for benchmarks and for tests that kill their client.

    python -m klaviyo_audit.testing.fake_klaviyo [--port N] [--requests-log FILE]

It prints one JSON line, ``{"url": "..."}``, when it is ready, and serves until its standard input
is closed or SIGTERM comes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_CHUNK = 65536


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop.

    Args:
        arguments: Instead of those of the command line.

    Returns:
        The exit status, 0.
    """
    parser = argparse.ArgumentParser(prog="python -m klaviyo_audit.testing.fake_klaviyo")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--requests-log", help="file to append one JSON line a request to")
    parser.add_argument("--strict", action="store_true", help="refuse unknown ids")
    parser.add_argument("--rate-limits", action="store_true", help="enforce the rate limits")
    parser.add_argument("--keep", type=int, default=0, help="requests to keep in memory")
    options = parser.parse_args(arguments)
    # SDKs before 20 import all their models at once otherwise, which takes seconds.
    os.environ.setdefault("KLAVIYO_PYTHON_SDK_LAZY_IMPORTS", "1")

    from klaviyo_audit.testing.fake_klaviyo import FakeKlaviyo

    signal.signal(signal.SIGTERM, _leave)
    with FakeKlaviyo(
        port=options.port,
        requests_log=options.requests_log,
        strict=options.strict,
        rate_limits=options.rate_limits,
        keep=options.keep,
    ) as fake:
        sys.stdout.buffer.write(orjson.dumps({"url": fake.url}) + b"\n")
        sys.stdout.buffer.flush()
        while os.read(sys.stdin.fileno(), _CHUNK):
            pass
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
