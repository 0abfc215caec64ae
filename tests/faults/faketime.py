"""The environment of a program whose wall clock follows a file, by libfaketime."""

import os
from pathlib import Path


def environment(program, file):
    """Variables for the program.

    Args:
        program: Path of ``faketime``, beside which the library is.
        file: What is written to it (``-3600s``) is added to the time; the monotonic clock goes on.
    """
    (library,) = Path(program).parents[1].glob("lib/*/faketime/libfaketime.so.1")
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
