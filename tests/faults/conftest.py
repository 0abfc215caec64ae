"""What all fault tests stand on: a Klaviyo in a process of its own, and a warm parent."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.faults.aftermath")

from tests.faults.warm import WarmParent  # noqa: E402  (asserts are rewritten before the import)
from tests.waiting import PATIENCE  # noqa: E402


def missing(what: str) -> None:
    """Skip a test for want of something, or fail it where everything has to be there."""
    if os.environ.get("KLAVIYO_AUDIT_REQUIRE_PEERS") == "1":
        pytest.fail(f"{what}, and KLAVIYO_AUDIT_REQUIRE_PEERS=1 asks for it")
    pytest.skip(what)


class Server:
    """A `FakeKlaviyo` that outlives the programs which call it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "klaviyo_audit.testing.fake_klaviyo",
                "--requests-log",
                str(log),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.url: str = json.loads(self._process.stdout.readline())["url"]

    def mark(self) -> int:
        """Where the log of requests ends now."""
        return self._log.stat().st_size

    def requests(self, since: int = 0) -> list[str]:
        """``METHOD path`` of every request that came since a mark."""
        with self._log.open("rb") as file:
            file.seek(since)
            # One at the end may be of a program that was killed, and only just be written down.
            lines = [json.loads(line) for line in file.read().split(b"\n")[:-1]]
        return [f"{line['method']} {line['path'].rstrip('/')}" for line in lines]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "requests.jsonl")
    yield server
    server.close()


@pytest.fixture(scope="session")
def calling():
    """A pipe in which programs of the warm parent say that their calls begin."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(scope="session")
def warm(server, calling):
    warm = WarmParent(server.url, inherited=(calling[1],))
    yield warm
    warm.close()


@pytest.fixture
def needed():
    """Ask for a program: ``needed("strace")`` gives its path, or skips the test."""

    def needed(program: str, how: str) -> str:
        path = shutil.which(program)
        if path is None:
            missing(f"{program} is not installed ({how})")
        return path

    return needed
