"""Check a klaviyo-audit journal with nothing but Python's standard library (3.11 or later).

    python verify_journal.py DIR [--key KEY] [--against CHECKPOINTS]
    python verify_journal.py FILE

Written from docs/journal-format.md, for a journal that nobody rotates meanwhile. It says whether
the journal is intact, by the same rules as `klaviyo-audit verify`, which tells more and faster; of
one journal file it only checks the lines.
Exit code 0: intact, 1: tampered with or damaged, 2: could not be checked.
"""

import base64
import fcntl
import gzip
import importlib
import itertools
import json
import re
import sys
import zlib
from collections import defaultdict
from datetime import datetime
from hashlib import sha256, sha512
from pathlib import Path

NOTE = re.compile("\\n*((?:[^\n]+\n)+)\n((?:— [^\n]*\n)+)\n")
ROTATED = re.compile(r"audit-(\d{12,19})\.jsonl(\.zst|\.gz)?")
HEAD = re.compile(rb'\{"v":\d{1,9},"id":"[^"\\]{1,64}","writer":"([0-9a-f]{16})","n":(\d{1,18}),')
LAYOUT = re.compile(
    rb'\{"v":1,"id":"([^"\\]*)","writer":"([0-9a-f]{16})","n":(0|[1-9]\d{0,17}),'
    rb'"timestamp":"([^"\\]*)","phase":"(outcome|intent|event|gap|journal)"'
)
WRITER = re.compile("[0-9a-f]{16}")
SUM = b',"sum":"'
SIGNED, END = ',"signature":"', '"}'
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


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
        self.ends, self.missing, self.lost = [], [], []


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
            if not (entry := LAYOUT.match(raw)):
                return self.say(*at, "no entry of a version that is known")
            if ended:
                return self.take(at, entry)
        elif raw.startswith(b'{"v":') and (
            raw.endswith(b'"}')
            or (raw[-1:] == b"\r" and holds(raw[:-1]))
            or (last and SUM in raw[-48:])
        ):
            return self.say(*at, "a line that was changed")
        elif not raw or not (raw[:5] == b'{"v":'[: len(raw)] or not raw.strip(b"\0")):
            return self.say(*at, "no journal line")
        self.torn.append((at, len(raw), sha256(raw).hexdigest(), claim, entry))
        return None

    def take(self, at, entry, late=False):
        entry_id, writer, n, time, phase = (
            text.decode("utf-8", "replace") for text in entry.groups()
        )
        mine, n, key = self.writers[writer], int(n), (entry_id, phase)
        if n in mine.times and late:
            return
        if not late and (mine.close or mine.ends):
            self.say(*at, "a line after its writer's end")
        if n in mine.times or (key in self.seen and not late):
            self.say(*at, "a line whose number or id was there before")
        self.seen |= set() if late else {key}
        mine.times.setdefault(n, time)
        mine.next, mine.first = max(mine.next, n + 1), n if mine.first is None else mine.first
        if phase in ("gap", "journal"):
            try:
                self.about_journal(at, json.loads(entry.string), mine, n)
            except (ValueError, RecursionError):
                self.say(*at, "no JSON")

    def about_journal(self, at, entry, mine, n):
        facts, action = entry.get("metadata"), entry.get("action")
        facts = facts if isinstance(facts, dict) else {}
        name = str(facts.get("writer"))
        other = self.writers[name] if WRITER.fullmatch(name) else None
        pairs = [x for x in listed(facts, "numbers") if isinstance(x, list) and len(x) == 2]
        if entry["phase"] == "gap":
            (other or mine).lost += [tuple(x) for x in pairs if all(map(is_number, x))]
            self.tell(at, facts)
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
                mine = self.writers[entry[2].decode()]
                if not mine.close and mine.next - int(entry[3]) <= 256:
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
        if self.whole and not mine.opened:
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
            excused = mine.lost + (mine.missing if hole in recent else [])
            fine = hole in recent and not mine.ends
            if not fine and uncovered(*hole[:2], excused):
                yield f"lines are missing among its numbers {hole[0]} to {hole[1]}"


def add(p, q):  # Ed25519: RFC 8032, section 5.1
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(s, p):
    q = (0, 1, 1, 0)
    for bit in f"{s:b}":
        q = add(add(q, q), p) if bit == "1" else add(q, q)
    return q


def point(sign, y):
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    x = x if (x * x - xx) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P


def signed(key, text, signature):
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(sha512(signature[:32] + key + text).digest(), "little") % L
    x, y, _, xy = point(*divmod(int.from_bytes(key, "little"), 1 << 255))
    x, y, z, _ = add(times(s, point(0, 4 * pow(5, -1, P) % P)), times(h, (P - x, y, 1, P - xy)))
    x, y = x * pow(z, -1, P) % P, y * pow(z, -1, P) % P
    return s < L and (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


def decoded(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("stray bits")
    return data


def opened(text, signatures, key):  # the lines of a note that the key has signed
    name, key_id, public = key.strip().split("+", 2)
    found = [s.split(" ", 2) for s in signatures.split("\n")]
    mine = [s[2] for s in found if s[1:2] == [name]]
    mine = [data for data in map(decoded, mine) if data[:4].hex() == key_id]
    if len(mine) != 1 or not signed(decoded(public)[1:], text.encode(), mine[0][4:]):
        raise ValueError("not signed by the key")
    return text.split("\n")


def is_torn(end, name):  # what a kill or a full disk leaves of the last checkpoint
    text, _, signature = end.rstrip("\n").partition("\n\n")
    begin = f"— {name} "
    fits = begin.startswith(signature) or signature.startswith(begin)
    fits = fits and len(signature) <= len(begin) + 92 - end.endswith("\n\n")
    return fits and "— " not in text and (name.startswith(text) or text.startswith(f"{name}\n"))


def grown(size, edge, leaf):  # RFC 6962: the largest complete subtrees, from left to right
    while size & 1:
        size, leaf = size >> 1, sha256(b"\1" + edge.pop() + leaf).digest()
    edge.append(leaf)


def root(edge):
    top = edge[-1] if edge else sha256(b"").digest()
    for node in edge[-2::-1]:
        top = sha256(b"\1" + node + top).digest()
    return top


def read(path):
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link")
    data = path.read_bytes()
    try:
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix != ".zst":
            return data
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        return importlib.import_module(name).decompress(data)
    except Exception as error:
        if isinstance(error, zlib.error | EOFError | OSError) or "Zstd" in type(error).__name__:
            raise ValueError(error) from error
        raise


class Journal:
    def __init__(self, folder, key, against):
        self.folder, self.problems, self.key = folder, [], key
        self.lines = Lines(folder, self.say)
        beside = folder / "sealing.pub"
        if key is None and beside.exists():
            self.key = read(beside).decode("ascii", "replace").strip()
        self.state = self.state_of()
        self.own = list(self.checkpoints("checkpoints"))
        kept = list(self.checkpoints(Path(against).absolute())) if against else []
        self.others = kept + ([self.state[:2]] if self.state else [])
        if key and not self.side("checkpoints"):
            self.say("checkpoints: there are none, and a key was given")
        self.segments = self.segments_of()
        self.edge, self.removed = self.removed_of()

    def say(self, *what):
        self.problems.append(" ".join(map(str, what)))

    def side(self, name):
        path = self.folder / name
        return read(path).decode("utf-8", "replace") if path.exists() else ""

    def checkpoints(self, name):
        data, at, last = self.side(name), 0, 0
        log = (self.key or "").split("+")[0]
        while self.key and data[at:].strip("\n"):
            found = NOTE.match(data, at)
            try:
                origin, size, top, *_ = opened(found[1], found[2], self.key)
            except (ValueError, ArithmeticError, TypeError):
                if is_torn(data[at:].lstrip("\n"), log):
                    return
                self.say(name, "holds something that is no checkpoint")
                blank = data.find("\n\n", at)
                at = found.end() if found else len(data) if blank < 0 else blank + 2
                continue
            at = found.end()
            if not size.isdecimal() or int(size) < last or origin != log:
                self.say(name, "holds a checkpoint of another log, or in the wrong place")
                continue
            last = int(size)
            yield last, decoded(top)

    def state_of(self):  # where the sealer stood: size, root, files with lines to come, segments
        try:
            found = NOTE.fullmatch(self.side("tree") + "\n")
            state = json.loads("\n".join(opened(found[1], found[2], self.key)))
            edge = [bytes.fromhex(node) for node in state["edge"]]
            return state["size"], root(edge), set(map(int, state["files"])), state["segments"]
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError):
            return None

    def segments_of(self):
        found, last = [], 0
        for line in self.side("segments").split("\n")[:-1]:
            three = re.fullmatch(r"(\d{1,19}) (\d{1,19}) (\d{1,19})", line, re.ASCII)
            index, file, offset = map(int, three.groups()) if three else (-1, 0, 0)
            new = file not in {known for _, known, _ in found}
            if index < last or (new and (file != index or offset)):
                self.say("segments: not what a sealer wrote")
                return []
            found.append((index, file, offset))
            last = index
        return found

    def removed_of(self):
        self.records, size, edge = [], 0, []
        for line in self.side("removed").split("\n")[:-1]:
            try:
                record = json.loads(line)
                edge = [bytes.fromhex(node) for node in record["edge"]]
                claims = [record.get(name) for name in ("from", "lines", "root")]
                good = record["size"] > size and len(edge) == record["size"].bit_count()
                good = good and claims == [size, record["size"] - size, root(edge).hex()]
                good = good and (record["size"], root(edge)) in self.own
                size = record["size"]
                kept = {name: record[name] for name in record if name not in ("edge", "signature")}
                self.records.append(kept)
                if self.key:
                    log, (body, _, rest) = self.key.split("+")[0], line.rpartition(SIGNED)
                    text = f"klaviyo-audit/removal@v1\n{log}\n{body}\n"
                    opened(text, f"— {log} {rest.removesuffix(END)}", self.key)
                    good = good and rest.endswith(END)
            except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError):
                self.say("removed: not what a sealer wrote")
                return [], 0
            if not good:
                self.say("removed: no checkpoint confirms it")
        return edge, size

    def check(self):
        start, files = self.removed, {}
        for path in sorted(self.folder.iterdir(), reverse=True):
            if match := ROTATED.fullmatch(path.name):
                files[int(match[1])] = path
                if not path.name.startswith(f"audit-{int(match[1]):012d}."):
                    self.say(path.name, "was put there")
        for path in self.folder.glob("sealer/*/audit-*.jsonl"):
            files.setdefault(int(path.name[6:-6]), path)
        kept = {file for index, file, _ in self.segments if index >= start}
        known = {file for _, file, _ in self.segments}
        live, last = self.folder / "audit.jsonl", max(known, default=None)
        is_live = live.exists() or live.is_symlink()
        if is_live:
            files[last if last is not None and last not in files else 2**63] = live
        for file in kept - files.keys():
            self.say(f"file {file} is missing")
        self.lines.whole, leaves = not start, defaultdict(list)
        for file in sorted(files.keys() - (known - kept)):
            name, at = files[file].name, 0
            if file not in known and files[file] != live and (known or self.own):
                self.say(name, "was put there")
            try:
                content = read(files[file])
            except ValueError as error:
                self.say(name, error)
                continue
            self.lines.read(name, content)
            *complete, tail = content.split(b"\n")
            for raw in [*complete, *([tail] if tail and files[file] != live else [])]:
                leaves[file].append((at, sha256(b"\0" + raw).digest()))
                at += len(raw) + 1
        if not files and not known and not self.own and not self.others:
            raise FileNotFoundError(f"there is no journal in {self.folder}")
        self.lines.finish()
        if known or self.own or self.others:
            self.check_tree(leaves, files, live)
        return self.problems

    def check_tree(self, leaves, files, live):
        size, used, order = self.removed, defaultdict(int), []
        ends = [*[index for index, _, _ in self.segments[1:]], 2**63]
        for (index, file, offset), end in zip(self.segments, ends, strict=False):
            if index < self.removed or index == end:
                continue
            part = leaves[file][used[file] :][: end - index]
            if index != size + len(order) or (part and part[0][0] != offset):
                self.say("segments: does not fit the files") if part else None
                break
            order += [leaf for _, leaf in part]
            used[file] += len(part)
        most = 0
        for upto, top in sorted([*self.own, *self.others]):
            while size < upto and size - self.removed < len(order):
                grown(size, self.edge, order[size - self.removed])
                size += 1
            if upto > size:
                most = upto
            elif upto == size and upto >= self.removed and top != root(self.edge):
                self.say(f"the first {upto} lines are not those that were sealed")
                break
        if most > size:
            self.say(f"the journal was cut off: {most} lines were sealed, and {size} are there")
        begun = self.segments[-1][0] if self.segments else 0
        sizes = [size for size, _ in self.own]
        if self.key and max([begun, *(s for s, _ in self.others)]) > max(sizes, default=0):
            self.say("checkpoints were removed")
        for file, path in files.items():
            last = max((n for n, one in enumerate(self.segments) if one[1] == file), default=None)
            done = self.state and file not in self.state[2] and last is not None
            done = done and last < self.state[3] and path != live
            if len(leaves[file]) > used[file] and (path.suffix in (".gz", ".zst") or done):
                self.say(path.name, "has lines that were put in after it was sealed")
        for facts in self.lines.retained:
            if facts not in self.records:
                self.say("removed: not what a line says that retention has removed")
        if not self.key and self.side("checkpoints"):
            self.say("no public key")


def check_file(path):
    path, problems = path.resolve(), []
    lines = Lines(path.parent, lambda *what: problems.append(" ".join(map(str, what))))
    number = ROTATED.fullmatch(path.name)
    lines.whole = not (number and int(number[1]))  # or the files before have the first lines
    try:
        lines.read(path.name, read(path))
    except ValueError as error:
        problems.append(f"{path.name} {error}")
    lines.finish()
    return problems


def main(folder, *options):
    given = dict(zip(options[::2], options[1::2], strict=True))
    try:
        if Path(folder).is_dir():
            problems = Journal(Path(folder), given.get("--key"), given.get("--against")).check()
        else:
            problems = check_file(Path(folder))
    except (OSError, ImportError) as error:
        print(f"could not be checked: {error}")
        return 2
    print(*problems, "tampered with or damaged" if problems else "intact", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
