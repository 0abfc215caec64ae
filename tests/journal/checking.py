"""Verification as the tests call it: the stand-alone verifier has to come to the same verdict."""

import atexit
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from klaviyo_audit.journal.verify import verify as verify_journal

EXAMPLES = Path(__file__).parents[2] / "examples"

# A process of its own: locks of this one would not show to it, and closing a file would drop them.
_PROGRAM = """
import contextlib, functools, io, json, sys
sys.path.insert(0, sys.argv[1])
import verify_journal
verify_journal.signed = functools.cache(verify_journal.signed)  # 8 ms each, often the same one
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verify_journal.main(*json.loads(line))
    print(json.dumps([code, out.getvalue()]), flush=True)
"""


@cache
def _other():
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(EXAMPLES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def stand_alone(folder, key=None, against=None):
    """Exit code and output of examples/verify_journal.py."""
    arguments = [str(folder.absolute())]
    arguments += ["--key", key] if key else []
    arguments += ["--against", str(against.absolute())] if against else []
    process = _other()
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()
    code, output = json.loads(process.stdout.readline())
    return code, output


def verify(path, *, verifiers=(), against=None, since=0, busy=False, **options):
    """What the package finds; a journal that is not `busy` is checked by both verifiers."""
    report = verify_journal(path, verifiers=verifiers, against=against, since=since, **options)
    if path.is_dir() and not busy and not since and (against is None or isinstance(against, Path)):
        key = verifiers[0].to_text() if verifiers else None
        code, output = stand_alone(path, key, against)
        assert code == (0 if report.intact else 1), (output, report.findings)
    return report
