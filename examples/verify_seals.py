"""Check the seals of a klaviyo-audit journal with Python's standard library (3.11 or later) alone.

    python verify_seals.py DIR [KEY [CHECKPOINTS]]

Written from docs/journal-format.md, for a journal that nobody rotates meanwhile. It says whether
every line that a signed checkpoint covers is there as it was sealed, or was removed by the sealer's
own account. All else is for verify_journal.py. KEY is by default the one in DIR; CHECKPOINTS is a
file of those kept elsewhere. Exit code 0: intact, 1: tampered or damaged, 2: could not be checked.
"""

import importlib
import itertools
import json
import re
import sys
import zlib
from base64 import b64decode
from functools import reduce
from hashlib import sha256, sha512
from pathlib import Path

BESIDE = ("checkpoints", "removed", "sealing.pub", "segments")
NOTE = re.compile("\\n*((?:[^\n]+\n)+)\n((?:— [^\n]*\n)+)\n")
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def need(fact, otherwise):
    if not fact:
        raise ValueError(otherwise)


def add(p, q):  # Ed25519: RFC 8032, section 5.1
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
    return e * f % P, g * h % P, f * g % P, e * h % P


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
    base, other, q = point(0, 4 * pow(5, -1, P) % P), (P - x, y, 1, P - xy), (0, 1, 1, 0)
    for bit in range(256)[::-1]:  # s * base + h * other
        q = add(q, q)
        q = add(q, base) if s >> bit & 1 else q
        q = add(q, other) if h >> bit & 1 else q
    x, y = (n * pow(q[2], -1, P) % P for n in q[:2])
    return s < L and (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


def opened(text, signatures, key):  # the lines of a note that the key has signed
    name, key_id, public = key.split("+", 2)
    mine = re.findall(f"^— {re.escape(name)} (.*)$", signatures, re.MULTILINE)
    mine = [data for one in mine if (data := b64decode(one))[:4].hex() == key_id]
    good = len(mine) == 1 and signed(b64decode(public)[1:], text.encode(), mine[0][4:])
    need(good, f"{text[:100]!r} is not signed by {name}")
    return text.split("\n")


def checkpoints(text, key):  # size and root of each
    at, last = 0, 0
    while found := NOTE.match(text, at):
        origin, size, top, *_ = opened(found[1], found[2], key)
        need(origin == key.split("+")[0] and int(size) >= last, f"{found[1]!r} is misplaced")
        at, last = found.end(), int(size)
        yield last, b64decode(top)
    need(not NOTE.search(text, at), f"{text[at : at + 100]!r} is no checkpoint")


def root(edge):  # RFC 6962: from the largest complete subtrees, left to right
    nodes = reversed(edge or [sha256().digest()])
    return reduce(lambda right, left: sha256(b"\1" + left + right).digest(), nodes)


def removed(text, key, sealed):  # by retention: size and edge of the tree at its end
    size, edge, log = 0, [], key.split("+")[0]
    for line in text.split("\n")[:-1]:
        record, (body, _, rest) = json.loads(line), line.rpartition(',"signature":"')
        opened(f"klaviyo-audit/removal@v1\n{log}\n{body}\n", f"— {log} {rest[:-2]}", key)
        begin, size, edge = size, record["size"], [bytes.fromhex(node) for node in record["edge"]]
        need(record["from"] == begin and (size, root(edge)) in sealed, f"{line!r} is unconfirmed")
    return size, edge


def leaves_of(path):  # offset and hash of each line of a file
    need(path and path.exists(), "a file of the journal is missing")
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = zlib.decompress(data, wbits=31)
    elif path.suffix == ".zst":
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        data = importlib.import_module(name).decompress(data)
    lines = re.finditer(b"[^\n]*\n" if path.name == "audit.jsonl" else b"[^\n]*\n|[^\n]+", data)
    return [(m.start(), sha256(b"\0" + m[0].removesuffix(b"\n")).digest()) for m in lines]


def check(folder, pinned, kept):  # how many lines are sealed
    beside = {p.name: p.read_text("utf-8", "replace") for p in folder.iterdir() if p.name in BESIDE}
    texts = dict.fromkeys(BESIDE, "") | beside
    key = pinned or texts["sealing.pub"].strip()
    own = list(checkpoints(texts["checkpoints"], key))
    need(own or not pinned, "a key was given, and there are no checkpoints")
    begin, edge = removed(texts["removed"], key, own)
    segments = [tuple(map(int, line.split(" "))) for line in texts["segments"].split("\n")[:-1]]
    files = {int(p.name[6:-6]): p for p in folder.glob("sealer/*/audit-*.jsonl")}
    files |= {int(p.name[6:18]): p for p in sorted(folder.glob("audit-[0-9]*.jsonl*"))[::-1]}
    files.setdefault(segments[-1][1] if segments else 0, folder / "audit.jsonl")
    size, leaves, rest = begin, [], {}
    for (index, file, offset), (end, *_) in itertools.pairwise([*segments, (2**63,)]):
        if begin <= index < end:
            mine = rest[file] if file in rest else leaves_of(files.get(file))
            part, rest[file] = mine[: end - index], mine[end - index :]
            fits = not part or (index, offset) == (begin + len(leaves), part[0][0])
            need(fits, "segments do not fit the files")
            leaves += [leaf for _, leaf in part]
    for sealed, top in sorted([*own, *checkpoints(kept, key)]):
        need(sealed <= begin + len(leaves), f"of {sealed} sealed lines the last are not there")
        for at in range(size, sealed):
            edge.append(leaves[at - begin])
            for _ in range((at ^ (at + 1)).bit_length() - 1):
                edge[-2:] = [sha256(b"\1" + edge[-2] + edge[-1]).digest()]
        size = max(size, sealed)
        need(size > sealed or top == root(edge), f"the first {sealed} lines were changed")
    return size


def main(folder, key="", against=None):
    try:
        kept = Path(against).read_text("utf-8", "replace") if against else ""
        print(f"intact: {check(Path(folder), key, kept)} lines are there as they were sealed")
    except Exception as error:
        unknown = isinstance(error, OSError | ImportError)
        print("could not be checked:" if unknown else "tampered with or damaged:", error)
        return 2 if unknown else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
