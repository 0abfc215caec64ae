"""Forks while threads of the package hold what a child would need."""

import os
import subprocess
import sys
import textwrap

import pytest

from klaviyo_audit import forks
from tests.waiting import PATIENCE


def run(code, folder, **environ):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={
            **os.environ,
            "KLAVIYO_AUDIT_DIR": str(folder / "trail"),
            "KLAVIYO_AUDIT_PSEUDONYM_KEY": "00" * 32,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_fork_waits_for_an_import(tmp_path):
    """A child never gets the lock of a module that another thread was importing."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.3)\n")
    done = run(
        """
        import os, signal, threading, time
        import klaviyo_audit.forks
        thread = threading.Thread(target=lambda: __import__("slow"), name="klaviyo-audit-x")
        thread.start()
        time.sleep(0.1)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            import slow
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "patience", "is_abandoned"), [(0.3, 80, False), (80, forks._LONGEST_WAIT, True)]
)
def test_a_fork_waits_for_a_read_but_not_for_ever(tmp_path, seconds, patience, is_abandoned):
    """A child that closes a file while another thread of its parent reads it would hang."""
    done = run(
        f"""
        import os, signal, threading, time
        from klaviyo_audit import forks
        forks._LONGEST_WAIT = {patience}
        source, sink = os.pipe()
        file = os.fdopen(source, "rb")
        def read():
            with forks.unforked():
                file.read(1)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        timer = threading.Timer({seconds}, os.write, (sink, b"x"))
        timer.daemon = True
        timer.start()
        time.sleep(0.1)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            if forks.abandon(file):
                os._exit(7)
            file.close()
            os._exit(0)
        print(time.monotonic() - began)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        tmp_path,
    )
    assert done.stderr == ""
    waited, code = done.stdout.split()
    assert int(code) == (7 if is_abandoned else 0)
    assert float(waited) < 60, "the program is not held up by what hangs"


def test_who_forks_while_reading_is_not_held_up(tmp_path):
    done = run(
        """
        import os, time
        from klaviyo_audit import forks
        with forks.unforked():
            if os.fork() == 0:
                os._exit(0)
        os.wait()
        with forks.unforked():
            print("on")
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("on\n", "")


def test_many_forks_of_a_program_that_ships(tmp_path):
    """Each child goes on recording and shipping, wherever the parent's threads were."""
    done = run(
        """
        import os, signal, threading, time
        from klaviyo_audit import Auditor
        auditor = Auditor(sinks=["console"])
        over = threading.Event()
        def record():
            while not over.is_set():
                auditor.record("parent")
                time.sleep(0.0005)
        busy = threading.Thread(target=record)
        busy.start()
        for number in range(60):
            pid = os.fork()
            if pid == 0:
                signal.alarm(90)
                auditor.record(f"child{number}")
                os._exit(not auditor.flush(80))
            assert os.waitpid(pid, 0)[1] == 0, number
        over.set()
        """,
        tmp_path,
        KLAVIYO_AUDIT_SHIP_EXIT_WAIT="80",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for number in range(60):
        assert done.stderr.count(f"child{number} ") == 1
