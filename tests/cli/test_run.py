"""``klaviyo-audit run``: a program nobody has changed for it is audited, and notices nothing."""

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from click.testing import CliRunner

from klaviyo_audit.cli import main
from klaviyo_audit.privacy.notice import NO_KEY
from tests import planted
from tests.journal.checking import verify
from tests.waiting import PATIENCE

CALLS = """
import os, sys
from klaviyo_api import KlaviyoAPI

def client():
    return KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])

klaviyo = client()
"""


def command(*program, options=()):
    return [sys.executable, "-m", "klaviyo_audit", "run", *options, "--", *map(str, program)]


def run(*program, fake=None, options=(), **env):
    return subprocess.run(
        command(*program, options=options),
        check=False,
        env={**os.environ, **({"FAKE": fake.url, "KEY": planted.API_KEY} if fake else {}), **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def script(folder, text, name="app.py"):
    path = folder / name
    path.write_text(CALLS + textwrap.dedent(text))
    return path


@pytest.fixture
def trail(tmp_path, trail):
    trail.folder = tmp_path / "klaviyo-audit"
    trail.path = trail.folder / "audit.jsonl"
    return trail


def test_a_program_is_audited_and_its_exit_code_is_its_own(fake, tmp_path, trail):
    path = script(
        tmp_path,
        """
        klaviyo.Lists.get_lists()
        klaviyo.Lists.delete_list("L1")
        print("said", *sys.argv[1:])
        sys.exit(7)
        """,
    )
    done = run(sys.executable, path, "-q", "--dir", fake=fake)
    assert (done.returncode, done.stdout) == (7, "said -q --dir\n")
    assert done.stderr == (
        f"klaviyo-audit: 2 calls recorded (2 success) by 1 process in {trail.folder}\n"
        f"klaviyo-audit: {NO_KEY}\n"
    )
    assert [line["action"] for line in trail.outcomes()] == [
        "klaviyo.lists.get_lists",
        "klaviyo.lists.delete_list",
    ]
    assert len(trail.of("intent")) == 1
    assert verify(trail.folder).intact


@pytest.mark.parametrize("how", ["-m", "script", "stdin"])
def test_whatever_way_it_is_started(fake, tmp_path, trail, how):
    path = script(tmp_path, "klaviyo.Lists.get_lists()", "shop.py")
    if how == "-m":
        done = run(sys.executable, "-m", "shop", fake=fake)
    elif how == "script":
        path.write_text(f"#!{sys.executable}\n{path.read_text()}")
        path.chmod(0o755)
        done = run(path, fake=fake)
    else:
        done = run("sh", "-c", f"{sys.executable} - <{path}", fake=fake)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 call recorded" in done.stderr
    assert len(trail.outcomes()) == 1


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver", "subprocess"])
def test_child_processes_are_audited_too(fake, tmp_path, trail, start):
    path = script(
        tmp_path,
        f"""
        import multiprocessing, subprocess

        def work(number):
            # A client of its own: a forked one shares its parent's open connections.
            client().Lists.get_list(f"L{{number}}")

        if __name__ == "__main__":
            klaviyo.Lists.get_lists()
            if {start!r} == "subprocess":
                if len(sys.argv) == 1:
                    for _ in range(3):
                        subprocess.run([sys.executable, __file__, "child"], check=True)
            else:
                context = multiprocessing.get_context({start!r})
                children = [context.Process(target=work, args=(n,)) for n in range(3)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
        """,
    )
    done = run(sys.executable, path, fake=fake)
    assert done.returncode == 0, done.stderr
    assert "4 calls recorded" in done.stderr
    assert "by 4 processes" in done.stderr
    assert len(trail.outcomes()) == 4
    assert len({line["origin"]["pid"] for line in trail.outcomes()}) == 4


def test_a_program_that_changes_its_folder_writes_to_the_same_journal(fake, tmp_path, trail):
    path = script(tmp_path, "os.chdir('/'); klaviyo.Lists.get_lists()")
    done = run(sys.executable, path, fake=fake)
    assert f"in {trail.folder}\n" in done.stderr
    assert len(trail.outcomes()) == 1


def test_only_this_run_is_counted(fake, tmp_path, trail):
    path = script(tmp_path, "klaviyo.Lists.get_lists()")
    for _ in range(3):
        done = run(sys.executable, path, fake=fake)
        assert "1 call recorded (1 success) by 1 process" in done.stderr
    assert len(trail.outcomes()) == 3


def test_a_program_that_never_calls_klaviyo_leaves_no_journal(tmp_path, trail):
    done = run(sys.executable, "-c", "print('hello')")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr.startswith("klaviyo-audit: no call to Klaviyo was recorded: ")
    assert not trail.folder.exists()
    assert run(sys.executable, "-c", "", options=["-q"]).stderr == ""


def test_what_cannot_be_started(tmp_path):
    done = run("no-such-program")
    assert done.returncode == 127
    assert done.stderr == "klaviyo-audit: there is no program 'no-such-program'\n"
    plain = tmp_path / "plain"
    plain.write_text("")
    done = run(plain)
    assert done.returncode == 126
    assert "Permission denied" in done.stderr
    assert CliRunner().invoke(main, ["run"]).exit_code == 2


def test_a_bad_setting_is_told_before_the_program_starts(tmp_path):
    done = run(sys.executable, "-c", "print('started')", KLAVIYO_AUDIT_DURABILITY="often")
    assert (done.returncode, done.stdout) == (2, "")
    assert "durability" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_once(number):
    program = f"""
import signal, sys, time
got = []
signal.signal({int(number)}, lambda *_: got.append(1))
print("ready", flush=True)
end = time.monotonic() + 60
while not got and time.monotonic() < end:
    time.sleep(0.05)
end = time.monotonic() + 0.5  # for a second one
while time.monotonic() < end:
    time.sleep(0.05)
print(len(got))
"""
    with subprocess.Popen(
        command(sys.executable, "-c", program), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "1\n"
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_it_dies_of_what_the_program_died_of(number):
    done = run(sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert done.returncode == -number
    assert "klaviyo-audit: " in done.stderr, "the summary comes before"


def test_ctrl_c_reaches_the_program_once():
    program = """
import signal, time
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
print("ready", flush=True)
end = time.monotonic() + 60
while not got and time.monotonic() < end:
    time.sleep(0.05)
end = time.monotonic() + 0.5  # for a second one
while time.monotonic() < end:
    time.sleep(0.05)
print("interrupted", len(got), flush=True)
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command(sys.executable, "-c", program))
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    deadline = time.monotonic() + PATIENCE
    while b"interrupted 1" not in shown and time.monotonic() < deadline:
        shown += os.read(terminal, 1024)
    assert b"interrupted 1" in shown
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_another_sitecustomize_still_runs(fake, tmp_path, trail):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import builtins; builtins.other = __file__")
    path = script(
        tmp_path,
        """
        import sitecustomize
        klaviyo.Lists.get_lists()
        print(other == sitecustomize.__file__)
        """,
    )
    done = run(sys.executable, path, fake=fake, PYTHONPATH=str(other))
    assert done.stdout == "True\n", done.stderr
    assert len(trail.outcomes()) == 1


def test_another_sitecustomize_that_fails_is_told_as_python_tells_it(fake, tmp_path, trail):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("raise ValueError('the other one')")
    path = script(tmp_path, "klaviyo.Lists.get_lists()")
    done = run(sys.executable, path, fake=fake, PYTHONPATH=str(other))
    assert done.returncode == 0
    assert "ValueError: the other one" in done.stderr
    assert len(trail.outcomes()) == 1


def test_a_tool_that_starts_python_with_a_path_of_its_own(fake, tmp_path, trail):
    # As launchers of other tools do: theirs goes first and loads the next sitecustomize itself.
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import os, sys; sys.path.remove(os.path.dirname(__file__)); "
        "del sys.modules['sitecustomize']; import sitecustomize"
    )
    path = script(tmp_path, "klaviyo.Lists.get_lists()")
    done = run(
        "sh", "-c", f'PYTHONPATH="{other}:$PYTHONPATH" exec {sys.executable} {path}', fake=fake
    )
    assert done.returncode == 0, done.stderr
    assert len(trail.outcomes()) == 1


def test_a_python_without_klaviyo_audit_says_so(tmp_path):
    # The interpreter that the environment was made from has no packages of ours.
    bare = sys._base_executable
    found = subprocess.run([bare, "-c", "import klaviyo_audit"], check=False, capture_output=True)
    if found.returncode == 0:
        pytest.skip(f"missing: a Python without klaviyo-audit; {bare} has it")
    (tmp_path / "openapi_client.py").write_text("")
    done = run(bare, "-c", "import openapi_client; print('goes on')")
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "calls to Klaviyo are NOT recorded: klaviyo-audit is not installed for" in done.stderr
    done = run(
        bare,
        "-c",
        "import openapi_client; print('goes on')",
        KLAVIYO_AUDIT_ON_FAILURE="block",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be called without a record" in done.stderr


def test_another_vendors_openapi_client_is_left_alone(tmp_path, trail):
    package = tmp_path / "openapi_client"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "api_client.py").write_text("class ApiClient:\n    def call_api(self): return 42\n")
    program = "from openapi_client.api_client import ApiClient; print(ApiClient().call_api())"
    done = run(sys.executable, "-c", program)
    assert done.stdout == "42\n", done.stderr
    assert not trail.folder.exists()


def test_what_was_lost_is_told(fake, tmp_path, trail):
    path = script(
        tmp_path,
        """
        import resource, signal
        klaviyo.Lists.get_lists()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = os.path.getsize("klaviyo-audit/audit.jsonl")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        klaviyo.Lists.get_list("L1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        """,
    )
    done = run(sys.executable, path, fake=fake)
    assert "1 entry could NOT be recorded" in done.stderr
