"""A `FakeKlaviyo` in a process of its own, for calls that really go over HTTP."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running(*options: str) -> Iterator[str]:
    """Run the server for a while.

    Args:
        options: Of its command line.

    Yields:
        Its URL, for ``test_host=``.
    """
    command = [sys.executable, "-m", "klaviyo_audit.testing.fake_klaviyo", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url: str = json.loads(process.stdout.readline())["url"]
            yield url
        finally:
            process.stdin.close()  # its end is the server's
