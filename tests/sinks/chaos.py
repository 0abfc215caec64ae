"""The other end at its worst, and a shipper that is killed again and again.

`ship_and_kill` is the ordeal, the same for each sink; `Receiver` is an other end that speaks HTTP.
"""

import http.client
import json
import multiprocessing
import os
import random
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit

from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.receipts import RECEIPTS_NAME
from klaviyo_audit.sinks.shipper import Pace, Shipper
from tests.journal.sealing import entry as make_entry
from tests.journal.sealing import files_of, make_sealer, open_writer
from tests.ports import free_port
from tests.sinks.tcp_proxy import reset
from tests.waiting import PATIENCE

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.sinks.chaos"])

ENTRIES = int(os.environ.get("SINKS_ENTRIES", "2000"))
KILLS = int(os.environ.get("SINKS_KILLS", "6"))
"""The whole of it: ``SINKS_ENTRIES=10000 SINKS_KILLS=50 pytest -n 0 -s tests/sinks -k killed``."""
SEED = int(os.environ.get("SINKS_SEED", "1"))
SECONDS = 600 + 10 * KILLS
"""What a test of the ordeal may take."""

BATCH = 50
DEADLINE = 3.0
"""Seconds: what only a busy machine held up for so long would be there twice."""
HANGS = 4.5
"""Longer than the deadline, in seconds."""
HANGINGS = 2
"""How often each kind of hang is dealt: they take their time."""

REFUSALS = ("429", "500", "503", "reset", "hang", "garbage")
"""What goes wrong before anything was taken."""
LOST_ANSWERS = ("reset after", "hang after", "garbage after")
"""What goes wrong after everything was taken: only a repetition can follow."""


class Deck:
    """Decides what goes wrong, each of it in turn, and counts.

    Args:
        seed: Decides when.
        share: How many of the requests something goes wrong with.
        wrongs: What can.
    """

    def __init__(self, seed, share=0.5, wrongs=(*REFUSALS, *LOST_ANSWERS)):
        self._wrongs = wrongs
        self._random = random.Random(seed)
        self._share = share
        self._cards = []
        self._hangings = HANGINGS
        self._lock = threading.Lock()
        self.happened = Counter()

    def draw(self):
        """What becomes of the next request; ``200``: nothing goes wrong."""
        with self._lock:
            what = "200"
            if self._random.random() < self._share:
                if not self._cards:
                    self._cards = self._random.sample(self._wrongs, len(self._wrongs))
                    self._hangings -= 1
                    if not self._hangings:
                        self._wrongs = [w for w in self._wrongs if not w.startswith("hang")]
                what = self._cards.pop()
            self.happened[what] += 1
        return what


class Receiver:
    """An HTTP server that takes what it is sent, when it feels like it.

    Args:
        deck: Decides what goes wrong.
        lines_of: The lines in a request's body.
    """

    def __init__(self, deck, lines_of=bytes.splitlines):
        self._deck = deck
        self._lines_of = lines_of
        self.lines = []
        """Every line that was taken, in order, repetitions included."""
        self._lock = threading.Lock()
        self.port = free_port()
        self._listener = self._listen(self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._closing = False
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _listen(port):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(50)
        return listener

    def go_down(self, seconds):
        """Be away for a while."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        time.sleep(seconds)
        self._listener = self._listen(self.port)

    def close(self):
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(0.01)
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with closing(connection), connection.makefile("rb") as file:
            try:
                length = 0
                while (header := file.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = file.read(length)
                if len(body) < length or not length:
                    return  # the shipper was killed on the way
                self._decide(connection, body)
            except OSError:
                return

    def _decide(self, connection, body):
        what = self._deck.draw()
        if what == "200" or what in LOST_ANSWERS:
            with self._lock:
                self.lines += self._lines_of(body)
        kind = what.removesuffix(" after")
        if kind == "reset":
            reset(connection)
        elif kind == "hang":
            time.sleep(HANGS)
        elif kind == "garbage":
            connection.sendall(b"\x00\xffthis is no HTTP\r\n\r\n" * 20)
        else:
            after = b"Retry-After: 0.05\r\n" if kind == "429" else b""
            connection.sendall(
                b"HTTP/1.1 %s X\r\n%bContent-Length: 0\r\nConnection: close\r\n\r\n"
                % (kind.encode(), after)
            )


class HttpSink:
    """Posts lines of JSON, as anybody would write it."""

    def __init__(self, url):
        self.name = "http"
        self._where = urlsplit(url).netloc

    def deliver(self, entries):
        body = b"".join(json.dumps(entry.to_dict()).encode() + b"\n" for entry in entries)
        connection = http.client.HTTPConnection(self._where, timeout=10)
        try:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            after = answer.headers.get("Retry-After")
            raise Retry(float(after) if after else None, f"status {answer.status}")

    def close(self):
        pass


def ship(folder, make_sink, ready=None, stop_after=None):
    """Ship until killed, or until everything up to an entry was delivered."""
    pace = Pace(batch_entries=BATCH, batch_age=0.02, deadline=DEADLINE, retry_most=0.1)
    shipper = Shipper(Path(folder), make_sink(), pace=pace, tell=lambda _: None)
    if ready is not None:
        ready.set()
    while True:
        wait = shipper.step()
        if wait is None and stop_after is not None and shipper.run_once(400):
            shipper.close()
            return
        time.sleep(0.02 if wait is None else min(wait, 0.1))


def record(folder, count, seconds):
    """Write entries over some time, while the journal is sealed, rotated and compressed."""
    folder = Path(folder)
    writer = open_writer(folder)
    sealer = make_sealer(folder, rotate_bytes=60_000)
    for number in range(count):
        assert writer.append(make_entry(number)) is None
        if number % 100 == 0:
            sealer.step()
            time.sleep(seconds * 100 / count)
    writer.close()
    sealer.close()


@dataclass
class Ordeal:
    """What was delivered and how, and how many kills and outages it took."""

    kills: int = 0
    outages: int = 0
    seconds: float = 0.0
    journal: list = field(default_factory=list)
    sink: str = ""
    acknowledged: int = 0

    def judge(self, lines, happened, lost_answers=(), early=0):
        """Compare what the other end has with the journal; one line of figures.

        Args:
            lines: What the other end took, in order, repetitions included.
            happened: How often what went wrong, by name.
            lost_answers: What of that happened after the lines were taken.
            early: How many lines before its turn a line may come.
        """
        wanted = {(m["id"], m["phase"]): m for m in map(json.loads, self.journal)}
        got = [json.loads(line) for line in lines]
        keys = [(m["id"], m["phase"]) for m in got]
        assert len(wanted) == len(self.journal) >= ENTRIES
        assert set(keys) == set(wanted), "nothing is lost"
        assert all(wanted[key]["sum"] == m["sum"] for key, m in zip(keys, got, strict=True))
        first = list(dict.fromkeys(m["n"] for m in got if m["action"] == "test"))
        ahead = (most - n for most, n in zip(accumulate(first, max), first, strict=True))
        assert max(ahead) <= early, "in the journal's order"
        assert self.acknowledged >= len(wanted), "a receipt for all of it"
        # What came twice came again as a whole batch, after a kill between delivery and bookmark
        # or an answer that was lost.
        repeated = len(keys) - len(set(keys))
        lost = sum(happened[what] for what in lost_answers)
        assert repeated <= BATCH * (lost + self.kills)
        return (
            f"\n{self.sink}: {len(wanted):,} entries in {self.seconds:.0f} s, {self.kills} kills, "
            f"{self.outages} outages, {dict(happened)}; lost 0, repeated {repeated:,} (with the "
            f"same id), of at most {BATCH * (lost + self.kills):,}"
        )


def ship_and_kill(folder, make_sink, go_down, entries=ENTRIES, kills=KILLS):
    """Write entries, deliver them by processes that are killed, and let the last one finish.

    Args:
        folder: Of the journal.
        make_sink: Makes the sink; it goes to another process.
        go_down: Makes the other end be away for so many seconds.
        entries: How many.
        kills: How often the shipper is killed (SIGKILL), each time after it has begun to deliver.
    """
    chance = random.Random(SEED)
    writing = threading.Thread(target=record, args=(folder, entries, kills * 0.3))
    ordeal = Ordeal()
    begun = time.monotonic()
    writing.start()
    while ordeal.kills < kills:
        ready = PROCESSES.Event()
        process = PROCESSES.Process(target=ship, args=(folder, make_sink, ready), daemon=True)
        process.start()
        assert ready.wait(PATIENCE)
        time.sleep(chance.uniform(0.05, 0.6))
        process.kill()
        process.join()
        ordeal.kills += process.exitcode == -9
        if ordeal.kills % 5 == 0:
            ordeal.outages += 1
            go_down(0.3)
    writing.join()
    last = PROCESSES.Process(target=ship, args=(folder, make_sink, None, True))
    last.start()
    last.join(500)
    assert last.exitcode == 0
    ordeal.seconds = time.monotonic() - begun
    ordeal.journal = [
        line for content in files_of(folder).values() for line in content.splitlines()
    ]
    (sink,) = (folder / "sinks").iterdir()
    ordeal.sink = sink.name
    receipts = (sink / RECEIPTS_NAME).read_text().splitlines()
    ordeal.acknowledged = sum(json.loads(line)["count"] for line in receipts)
    return ordeal
