"""Verification as the tests call it: the stand-alone verifiers have to come to the same verdict."""

import atexit
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from klaviyo_audit.journal.findings import Kind
from klaviyo_audit.journal.verify import verify as verify_journal

SEALED = {Kind.CHANGED, Kind.CUT_OFF, Kind.MISSING_FILE}
"""What the seals alone show."""

EXAMPLES = Path(__file__).parents[2] / "examples"

# A process of its own: locks of this one would not show to it, and closing a file would drop them.
_PROGRAM = """
import contextlib, functools, io, json, sys
sys.path.insert(0, sys.argv[1])
import verify_journal, verify_seals
for verifier in verify_journal, verify_seals:
    verifier.signed = functools.cache(verifier.signed)  # 8 ms each, often the same one
for line in sys.stdin:
    name, *arguments = json.loads(line)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = sys.modules[name].main(*arguments)
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
    arguments = ["--key", key] if key else []
    arguments += ["--against", str(against.absolute())] if against else []
    return _run("verify_journal", folder, *arguments)


def seals(folder, key=None, against=None):
    """Exit code and output of examples/verify_seals.py."""
    arguments = [str(against.absolute())] if against else []
    return _run("verify_seals", folder, key or "", *arguments)


def _run(verifier, folder, *arguments):
    process = _other()
    process.stdin.write(json.dumps([verifier, str(folder.absolute()), *arguments]) + "\n")
    process.stdin.flush()
    code, output = json.loads(process.stdout.readline())
    return code, output


def verify(path, *, verifiers=(), against=None, since=0, busy=False, **options):
    """What the package finds; a journal that is not `busy` is checked by all three verifiers.

    One file of it by two. What `since` leaves out of account makes nothing worse.
    """
    report = verify_journal(path, verifiers=verifiers, against=against, since=since, **options)
    if not path.is_dir() and not busy:
        code, output = stand_alone(path)
        assert code == (0 if report.intact else 1), (output, report.findings)
    if path.is_dir() and not busy and not since and (against is None or isinstance(against, Path)):
        key = verifiers[0].to_text() if verifiers else None
        code, output = stand_alone(path, key, against)
        assert code == (0 if report.intact else 1), (output, report.findings)
        code, output = seals(path, key, against)
        kinds = {finding.kind for finding in report.findings}
        if report.intact or (kinds & SEALED and Kind.SIDE_FILE not in kinds):
            assert code == (0 if report.intact else 1), (output, report.findings)
    if isinstance(since, int) and since and not busy and against is None and not report.intact:
        code, output = stand_alone(path, verifiers[0].to_text() if verifiers else None)
        assert code == 1, (output, report.findings)
    return report
