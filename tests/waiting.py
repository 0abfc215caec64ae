"""Waiting for what has to come, with so much patience that only what never comes is missed."""

import json
import time

PATIENCE = 200.0
"""Seconds: many times what anything takes, also on a busy machine that stands still at times; and
less than pytest's own timeout, so that what did not come is named."""


def wait_for(what, seconds=PATIENCE, every=0.005):
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(every)
    return answer


def whole_lines(path):
    """The JSON lines of a file, but for one at its end that somebody is just writing."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
