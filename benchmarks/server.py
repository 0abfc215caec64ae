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
def running(module: str = "klaviyo_audit.testing.fake_klaviyo") -> Iterator[str]:
    """Run the server for a while.

    Args:
        module: Another one that prints its URL likewise.

    Yields:
        Its URL, for ``test_host=``.
    """
    command = [sys.executable, "-m", module]
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
