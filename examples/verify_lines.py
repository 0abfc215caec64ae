"""Check the lines of a klaviyo-audit journal; the second half of verify_journal.py, which runs it.

Standard library only, written from docs/journal-format.md: checksums, numbers, damage.
"""

import fcntl
import itertools
import json
import re
from collections import defaultdict
from datetime import datetime
from hashlib import sha256

HEAD = re.compile(rb'\{"v":\d{1,9},"id":"[^"\\]{1,64}","writer":"([0-9a-f]{16})","n":(\d{1,18}),')
WRITER = re.compile("[0-9a-f]{16}")
SUM = b',"sum":"'
PHASES = ("intent", "outcome", "event", "gap", "journal")


def holds(raw):
    body, _, rest = raw.rpartition(SUM)
    return raw.startswith(b'{"v":') and rest == b'%b"}' % sha256(body).hexdigest()[:16].encode()


def pieces(raw):  # a damaged line, cut where entries begin: offset, bytes, whether the sum holds
    heads, end, found = [m.start() for m in HEAD.finditer(raw)][-1000:], len(raw), []
    while heads:
        start = next((at for at in heads[:-17:-1] if holds(raw[at:end])), heads[-1])
        found.insert(0, (start, raw[start:end], holds(raw[start:end])))
        heads, end = [at for at in heads if at < start], start
    return [(0, raw[:end], False), *found] if end or not found else found


def seconds(time):
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return float("nan")


def is_number(value):
    return type(value) is int and 0 <= value < 2**64


def listed(facts, name):
    return facts[name] if isinstance(facts.get(name), list) else []


def uncovered(first, last, ranges):  # how many numbers of a range are in none of the others
    count, at = 0, first
    for low, high in sorted(ranges):
        count, at = count + max(0, min(low, last + 1) - at), max(at, min(high, last) + 1)
    return count + max(0, last + 1 - at)


def is_locked(path):
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return False


class Writer:
    def __init__(self):
        self.times, self.next, self.first, self.opened, self.close = {}, 0, None, False, None
        self.ends, self.missing, self.lost, self.claims = [], [], [], []


class Lines:  # checksums, numbers, damage; `whole`: the writers' first lines have to be there
    def __init__(self, folder, say):
        self.folder, self.say, self.whole = folder, say, True
        self.writers, self.seen, self.retained = defaultdict(Writer), set(), []
        self.told, self.stretches, self.torn = set(), defaultdict(list), []

    def read(self, name, content):
        start = 0
        for number, raw in enumerate(content.split(b"\n"), 1):
            ended = start + len(raw) < len(content)
            found = [(0, raw, True)] if holds(raw) else pieces(raw) if raw or ended else []
            for offset, piece, good in found:
                last = offset + len(piece) == len(raw)
                self.piece((name, number, start + offset), piece, good, last, last and ended)
            start += len(raw) + 1

    def piece(self, at, raw, good, last, ended):
        entry, claim = None, HEAD.match(raw)
        if good:
            try:
                entry = json.loads(raw, parse_constant=lambda _: 1 / 0)
                texts = [entry[x] for x in ("id", "timestamp", "action", "user_id")]
                assert all(isinstance(x, str) for x in texts)
                assert entry["v"] == 1
                assert entry["phase"] in ("intent", "outcome", "event", "gap", "journal")
                assert WRITER.fullmatch(entry["writer"])
                assert is_number(entry["n"])
            except (ValueError, KeyError, TypeError, AssertionError, ArithmeticError):
                return self.say(*at, "no entry of a version that is known")
            if ended:
                return self.take(at, entry)
        elif raw.startswith(b'{"v":') and (
            raw.endswith(b'"}')
            or (raw[-1:] == b"\r" and holds(raw[:-1]))
            or (last and SUM in raw[-48:])
        ):
            if claim and not raw.endswith(b"\r"):
                self.writers[claim[1].decode()].claims.append((int(claim[2]),) * 2)
            return self.say(*at, "a line that was changed")
        elif not raw or not (raw[:5] == b'{"v":'[: len(raw)] or not raw.strip(b"\0")):
            return self.say(*at, "no journal line")
        self.torn.append((at, len(raw), sha256(raw).hexdigest(), claim, entry))
        return None

    def take(self, at, entry, late=False):
        mine, n, key = self.writers[entry["writer"]], entry["n"], (entry["id"], entry["phase"])
        if n in mine.times and late:
            return
        if not late and (mine.close or mine.ends):
            self.say(*at, "a line after its writer's end")
        if n in mine.times or (key in self.seen and not late):
            self.say(*at, "a line whose number or id was there before")
        self.seen |= set() if late else {key}
        mine.times.setdefault(n, entry["timestamp"])
        mine.next, mine.first = max(mine.next, n + 1), n if mine.first is None else mine.first
        facts = entry.get("metadata")
        facts, action = facts if isinstance(facts, dict) else {}, entry["action"]
        name = str(facts.get("writer"))
        other = self.writers[name] if WRITER.fullmatch(name) else None
        pairs = [x for x in listed(facts, "numbers") if isinstance(x, list) and len(x) == 2]
        if entry["phase"] == "gap":
            (other or mine).lost += [tuple(x) for x in pairs if all(map(is_number, x))]
            self.tell(at, facts)
        elif entry["phase"] != "journal":
            return
        elif action == "journal.recover" and other:
            other.ends.append(facts["last"] if is_number(facts.get("last")) else -1)
            other.missing += [(x, x) for x in listed(facts, "missing") if is_number(x)]
            self.tell(at, facts)
        elif action == "journal.open":
            mine.opened = mine.opened or n == 0
        elif action == "journal.close" and is_number(facts.get("lines")) and not mine.close:
            mine.close = (facts["lines"], n)
            if mine.next > n + 1:
                self.say(*at, "a goodbye after lines with higher numbers")
        elif action == "journal.retention":
            self.retained.append(facts)
        elif action == "journal.truncated":
            self.say(*at, "the writer saw the file shrink")

    def tell(self, at, facts):
        for piece in filter(lambda x: isinstance(x, dict), listed(facts, "torn")):
            offset, length, digest = (piece.get(x) for x in ("offset", "length", "sha256"))
            if is_number(offset) and is_number(length) and isinstance(digest, str | None):
                self.told.add((offset, length, digest))
                if digest is None:
                    self.stretches[at[0]].append((offset, offset + length - 1))

    def finish(self):
        excused = set()
        for at, _, _, _, entry in self.torn:
            if entry:
                self.take(at, entry, late=True)
                mine = self.writers[entry["writer"]]
                if not mine.close and mine.next - entry["n"] <= 256:
                    excused.add(at)
        for at, length, digest, claim, _ in self.torn:
            covered = not uncovered(at[2], at[2] + length - 1, self.stretches[at[0]])
            if self.told & {(at[2], length, digest), (at[2], length, None)} or covered:
                continue
            mine = self.writers[claim[1].decode()] if claim else None
            alive = claim and is_locked(self.folder / "writers" / claim[1].decode())
            if at not in excused and not (alive and not mine.close and not mine.ends):
                self.say(*at, "a piece of a line that nothing explains")
        for name, mine in self.writers.items():
            if mine.first is not None or (self.whole and max(mine.ends, default=-1) >= 0):
                for what in self.judge(mine):
                    self.say(f"writer {name}:", what)

    def judge(self, mine):
        if self.whole and not mine.opened and uncovered(0, 0, mine.claims):
            yield "its first line is not there"
        if mine.close and mine.close[0] <= mine.close[1]:
            yield "its goodbye counts too few lines"
        there, holes = [-1, *sorted(mine.times)], []
        for before, after in itertools.pairwise(there):
            if after > before + 1:
                holes.append((before + 1, after - 1, seconds(mine.times[after])))
        end, begun = seconds(mine.times.get(there[-1], "")), seconds(mine.times.get(mine.first, ""))
        if not self.whole:  # the others may have been removed by retention
            last = (mine.first or 0) + 256
            holes = [
                x for x in holes if x[1] > last or not (x[1] < last - 256 or x[2] - begun <= 5)
            ]
        recent = [hole for hole in holes if end - hole[2] <= 5]
        if mine.close or sum(uncovered(*hole[:2], mine.lost) for hole in recent) > 256:
            recent = []
        ends = [*mine.ends, *([mine.close[0] - 1] if mine.close else [])]
        if ends and max(ends) >= mine.next:
            holes.append((mine.next, max(ends), float("nan")))
        for hole in holes:
            excused = mine.claims + mine.lost + (mine.missing if hole in recent else [])
            fine = hole in recent and not mine.ends
            if not fine and uncovered(*hole[:2], excused):
                yield f"lines are missing among its numbers {hole[0]} to {hole[1]}"
