"""Check a klaviyo-audit journal with nothing but Python's standard library (3.11 or later).

    python verify_journal.py DIR [--key KEY] [--against CHECKPOINTS]

Written from docs/journal-format.md, for a journal that nobody rotates meanwhile. It says whether
the journal is intact, by the same rules as `klaviyo-audit verify`, which tells more and faster.
What is about lines is in verify_lines.py beside it; here are files, tree and checkpoints.
Exit code 0: intact, 1: tampered with or damaged, 2: could not be checked.
"""

import base64
import gzip
import importlib
import json
import re
import sys
import zlib
from collections import defaultdict
from hashlib import sha256, sha512
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from verify_lines import Lines

NOTE = re.compile("((?:[^\n]+\n)+)\n((?:— [^\n]*\n)+)\n")
ROTATED = re.compile(r"audit-(\d{12,19})\.jsonl(\.zst|\.gz)?")
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


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


def point(data):
    sign, y = divmod(int.from_bytes(data, "little"), 1 << 255)
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    x = x if (x * x - xx) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    if (x * x - xx) % P or y >= P or len(data) != 32:
        raise ValueError("not a point")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def signed(key, text, signature):
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(sha512(signature[:32] + key + text).digest(), "little")
    p = times(s, point(bytes([88]) + bytes([102]) * 31))
    q = add(point(signature[:32]), times(h % L, point(key)))
    same = all((p[i] * q[2] - q[i] * p[2]) % P == 0 for i in (0, 1))
    return same and s < L and len(signature) == 64


def decoded(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("stray bits")
    return data


def opened(text, signatures, key):  # the lines of a note that the key has signed
    name, key_id, public = key.strip().split("+", 2)
    mine = [s.split(" ")[2] for s in signatures.splitlines() if s.split(" ")[1:2] == [name]]
    mine = [data for data in map(decoded, mine) if data[:4].hex() == key_id]
    if len(mine) != 1 or not signed(decoded(public)[1:], text.encode(), mine[0][4:]):
        raise ValueError("not signed by the key")
    return text.split("\n")


def is_torn(piece, key, most=91):  # what a kill or a full disk leaves of a checkpoint
    text, blank, signature = piece.strip("\n").rpartition("\n\n")
    if not blank:
        text, signature = ("", signature) if signature.startswith("— ") else (signature, "")
    name = key.split("+")[0]
    begin = f"— {name} "
    fits = begin.startswith(signature) or signature.startswith(begin)
    fits = fits and len(signature) <= len(begin) + most
    return fits and (name.startswith(text) or text.startswith(f"{name}\n"))


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
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix != ".zst":
        return path.read_bytes()
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(name).decompress(path.read_bytes())


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
        while (self.key and (found := NOTE.search(data, at))) or data[at:].strip("\n"):
            between = data[at : found.start() if found else len(data)]
            for piece in filter(None, between.strip("\n").split("\n\n")):
                if not (self.key and is_torn(piece, self.key, 92)):
                    self.say(name, "holds something that is no checkpoint")
            if not found:
                return
            at = found.end()
            try:
                origin, size, top, *_ = opened(found[1], found[2], self.key)
            except (ValueError, ArithmeticError, IndexError):
                if not is_torn(found[0], self.key):
                    self.say(name, "holds a checkpoint that does not hold")
                continue
            if not size.isdecimal() or int(size) < last or origin != self.key.split("+")[0]:
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
        self.records, size, edge = {}, 0, []
        for line in self.side("removed").split("\n")[:-1]:
            try:
                record = json.loads(line)
                edge = [bytes.fromhex(node) for node in record["edge"]]
                claims = [record.get(name) for name in ("from", "lines", "root")]
                good = record["size"] > size and len(edge) == record["size"].bit_count()
                good = good and claims == [size, record["size"] - size, root(edge).hex()]
                good = good and (record["size"], root(edge)) in self.own
                size = record["size"]
                self.records[size] = {**record}
                del self.records[size]["edge"]
            except (ValueError, TypeError, KeyError, AttributeError):
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
            except (zlib.error, EOFError, gzip.BadGzipFile) as error:
                self.say(name, error)
                continue
            except Exception as error:
                if "Zstd" not in type(error).__name__:
                    raise
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
        return not self.problems

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
            if self.records.get(facts.get("size")) != facts:
                self.say("removed: not what a line says that retention has removed")
        if not self.key and self.side("checkpoints"):
            self.say("no public key")


def main(folder, *options):
    given = dict(zip(options[::2], options[1::2], strict=True))
    try:
        journal = Journal(Path(folder), given.get("--key"), given.get("--against"))
        intact = journal.check()
    except (OSError, ImportError) as error:
        print(f"could not be checked: {error}")
        return 2
    print(*journal.problems, "intact" if intact else "tampered with or damaged", sep="\n")
    return 0 if intact else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
