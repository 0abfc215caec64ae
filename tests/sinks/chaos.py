"""The other end at its worst, the sink that talks to it, and a shipper that can be killed."""

import http.client
import json
import multiprocessing
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.shipper import Pace, Shipper
from tests.journal.sealing import entry as make_entry
from tests.journal.sealing import make_sealer, open_writer

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.sinks.chaos"])

DEADLINE = 0.4
HANGS = 0.8
"""Longer than the deadline, in seconds."""

REFUSALS = ("429", "500", "503", "reset", "hang", "garbage")
"""What goes wrong before anything was taken."""
LOST_ANSWERS = ("reset after", "hang after", "garbage after")
"""What goes wrong after everything was taken: only a repetition can follow."""


class Receiver:
    """An HTTP server that takes lines of JSON, when it feels like it.

    Args:
        seed: Decides what goes wrong.
        share: How many of the requests something goes wrong with.
        wrongs: What can.
    """

    def __init__(self, seed, share=0.5, wrongs=(*REFUSALS, *LOST_ANSWERS)):
        self._wrongs = wrongs
        self._deck = []
        self._random = random.Random(seed)
        self._share = share
        self.lines = []
        """Every line that was taken, in order, repetitions included."""
        self.happened = Counter()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
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
        self.happened["down"] += 1
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
        with self._lock:
            what = "200"
            if self._random.random() < self._share:
                if not self._deck:  # each of them comes in turn
                    self._deck = self._random.sample(self._wrongs, len(self._wrongs))
                what = self._deck.pop()
            self.happened[what] += 1
            if what == "200" or what in LOST_ANSWERS:
                self.lines += body.splitlines()
        kind = what.removesuffix(" after")
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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


def ship(folder, url, stop_after=None):
    """Ship until killed, or until everything up to an entry was delivered."""
    pace = Pace(batch_entries=50, batch_age=0.02, deadline=DEADLINE, retry_most=0.1)
    shipper = Shipper(Path(folder), HttpSink(url), pace=pace, tell=lambda _: None)
    while True:
        wait = shipper.step()
        if wait is None and stop_after is not None and shipper.run_once(60):
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
