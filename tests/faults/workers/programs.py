"""The audited programs that the fault tests run, stop and kill."""

import os
import resource
import signal
import threading

from klaviyo_api import KlaviyoAPI
from sealer_program import scripted_sealing  # noqa: F401  (a program as those below)

from klaviyo_audit import Auditor, AuditUnavailable, acting_as
from klaviyo_audit.journal import sealer, succession

KEY = "pk_" + "0" * 34
PROFILES = {"data": [{"type": "profile", "id": "P1"}]}


def a_list(list_id: str) -> dict:
    return {"data": {"type": "list", "id": list_id, "attributes": {"name": "Newsletter"}}}


def client_of(url: str):
    return KlaviyoAPI(KEY, test_host=url)


def one_call(klaviyo, number: int, list_id: str) -> str:
    """One of several calls, three of four of which write. Returns ``METHOD path``."""
    path = f"/api/lists/{list_id}"
    match number % 4:
        case 0:
            klaviyo.Lists.delete_list(list_id)
            return f"DELETE {path}"
        case 1:
            klaviyo.Lists.get_list(list_id)
            return f"GET {path}"
        case 2:
            klaviyo.Lists.update_list(list_id, a_list(list_id))
            return f"PATCH {path}"
        case _:
            klaviyo.Lists.add_profiles_to_list(list_id, PROFILES)
            return f"POST {path}/relationships/profiles"


def warm_up(url: str) -> None:
    """Import what is imported when first used, by using it; nothing of it is kept."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for durability in ("flush", "fsync"):
            with Auditor(journal=f"{folder}/trail", durability=durability) as auditor:
                klaviyo = auditor.audit(client_of(url))
                for number in range(4):
                    one_call(klaviyo, number, f"WARM{number}")
        # A writer that is dead, for the recovery to find.
        os.close(os.open(f"{folder}/trail/writers/{'0' * 16}", os.O_CREAT | os.O_WRONLY))
        Auditor(journal=f"{folder}/trail").close()


def call_until_killed(
    url: str,
    journal: str,
    tag: str,
    acknowledged: str,
    calling: int,
    prefork: bool,
    settings: dict,
) -> None:
    """Four processes of four threads each that call without end.

    Args:
        url: The server.
        journal: The journal's folder.
        tag: Makes the ids of this group its own.
        acknowledged: File that gets a line after each call that returned.
        calling: Descriptor that gets a byte from each process when its calls begin.
        prefork: Make the auditor before the processes are forked, as web servers do.
        settings: Further ones of the auditor.
    """
    if settings:
        # So short a life has to have some rotations in it.
        succession.GRACE_SECONDS = sealer._LOOK_SECONDS = 0.01
    auditor = Auditor(journal=journal, service="doomed", **settings) if prefork else None
    klaviyo = auditor and auditor.audit(client_of(url))
    acks = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    children = []
    for process in range(4):
        pid = os.fork()
        if pid == 0:
            if klaviyo is None:
                auditor = Auditor(journal=journal, service="doomed", **settings)
                klaviyo = auditor.audit(client_of(url))
            _call_in_threads(klaviyo, f"{tag}x{process}", acks, calling)
            return
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def _call_in_threads(klaviyo, tag: str, acks: int, calling: int) -> None:
    def work(thread: int) -> None:
        # Lines of several pages are those that a kill can tear.
        facts = {f"fact{n}": "x" * 900 for n in range(0 if thread else 12)}
        with acting_as("dana", reason="load", **facts):
            number = 0
            while True:
                done = one_call(klaviyo, number, f"L{tag}x{thread}x{number}")
                os.write(acks, done.encode() + b"\n")
                number += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    os.write(calling, b"c")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def scripted(
    url: str,
    journal: str,
    tag: str,
    durability: str,
    on_failure: str,
    limit: tuple[int, int, str] | None = None,
    tokens: int = 1,
) -> None:
    """Open a journal, call, close, and all of it again; say on standard output what came of it.

    Args:
        url: The server.
        journal: The journal's folder.
        tag: Makes the ids of this run its own.
        durability: The setting.
        on_failure: The setting.
        limit: Limits the journal's size (bytes) as a full disk would, but in the middle of a
            line: the step before which that begins, the bytes that still fit, and how it goes on:
            ``lifted`` after that step, ``kept``, or ``killed`` after it.
        tokens: The first of the names that are random otherwise.
    """
    _number_the_tokens(tokens)
    steps = _Steps(f"{journal}/audit.jsonl", limit)
    client = client_of(url)
    for opening in range(2):
        steps.begin()
        try:
            auditor = Auditor(
                journal=journal,
                service="scripted",
                durability=durability,
                on_failure=on_failure,
                intents="all" if on_failure == "block" else "writes",
                seal="off",
            )
        except AuditUnavailable:
            steps.say(f"opening {opening} refused")
            continue
        if auditor._recovery is not None:
            auditor._recovery.join()
        steps.say(f"opening {opening}")
        klaviyo = auditor.audit(client)
        for number in range(4):
            steps.begin()
            try:
                steps.say(f"done {one_call(klaviyo, number, f'L{tag}x{opening}x{number}')}")
            except AuditUnavailable:
                steps.say("refused")
            # Writers look now and then whether their file is still the journal: now.
            auditor._writer._look_at = 0.0
        steps.begin()
        auditor.close()
        steps.say("closed")
    # One that is to be killed after its last step, or that was refused its last opening.
    steps.begin()


class _Steps:
    """Says what was done, and puts the limit on the journal's size in force."""

    def __init__(self, path: str, limit: tuple[int, int, str] | None) -> None:
        self._path = path
        self._limit = limit
        self._step = -1
        self._size = resource.RLIM_INFINITY

    def begin(self) -> None:
        self._step += 1
        if self._limit is None:
            return
        step, extra, then = self._limit
        if self._step == step:
            size = os.path.getsize(self._path) if os.path.exists(self._path) else 0
            self._size = size + extra
        elif self._step == step + 1:
            if then == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if then == "lifted":
                self._size = resource.RLIM_INFINITY
        self._set(self._size)

    def say(self, what: str) -> None:
        self._set(resource.RLIM_INFINITY)
        os.write(1, what.encode() + b"\n")
        self._set(self._size)

    def _set(self, size: int) -> None:
        if self._limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _number_the_tokens(first: int) -> None:
    """Names that are random otherwise are the same in each run: strace is told them."""
    import itertools
    import secrets

    numbers = itertools.count(first)
    secrets.token_hex = lambda size=32: f"{next(numbers):0{2 * size}x}"
