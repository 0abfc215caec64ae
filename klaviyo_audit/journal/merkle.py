"""The RFC 6962 Merkle tree over the journal's lines, kept as its right edge."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import JournalCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""Root of a tree without leaves (RFC 6962, section 2.1)."""

MAX_SIZE = 2**63 - 1
"""Most leaves a tree can have: what readers of checkpoints in other languages can hold."""

LEAF = b"\x00"
"""What a leaf's hash begins with (RFC 6962, section 2.1)."""
_NODE = b"\x01"
# Leaves taken from an iterator at once: one level's work is then spread over many (0.6 us a leaf,
# 6 us when they come one by one), and a stream of any length needs little memory.
_BATCH = 1024


def leaf_hash(line: bytes) -> bytes:
    """Hash of one leaf: SHA-256 of a zero byte followed by the line without its newline.

    A line is what lies between two newlines of the file, so that a torn line and the line that
    directly follows it are one leaf, and every byte of the file is in the tree.
    """
    return sha256(LEAF + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256 of a one byte followed by the hashes of its two children."""
    return sha256(_NODE + left + right).digest()


@dataclass(frozen=True, slots=True)
class CompactRange:
    """A tree reduced to what is needed to append to it: size plus largest complete subtrees.

    Immutable, so that a batch which fails half way leaves the old tree as it was.

    Args:
        size: Number of leaves.
        edge: Hashes of the largest complete subtrees from left to right: one of 2**k leaves for
            each bit k that is set in `size`.

    Raises:
        ValueError: `edge` can't be that of a tree of `size` leaves.
    """

    size: int = 0
    edge: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"a tree can't have {self.size!r} leaves: 0 to {MAX_SIZE} are allowed")
        if len(self.edge) != self.size.bit_count():
            raise ValueError(
                f"a tree of {self.size} leaves has {self.size.bit_count()} hashes at its edge, "
                f"not {len(self.edge)}"
            )
        if any(len(node) != HASH_BYTES for node in self.edge):
            raise ValueError(f"a hash at the edge of a tree must have {HASH_BYTES} bytes")

    def extended(self, hashes: Iterable[bytes]) -> CompactRange:
        """The tree with more leaves at its end.

        Args:
            hashes: What `leaf_hash` made of the new lines, in order, as in
                ``tree.extended(map(leaf_hash, lines))``. Read in batches: a stream over a file
                of any size will do.
        """
        source = iter(hashes)
        size, edge = self.size, self.edge
        while batch := list(islice(source, _BATCH)):
            edge = _appended(size, edge, batch)
            size += len(batch)
        return CompactRange(size, edge)

    def root(self) -> bytes:
        """Root of the tree, MTH(D[n]) of RFC 6962."""
        if not self.edge:
            return EMPTY_ROOT
        *left, root = self.edge
        for node in reversed(left):
            root = node_hash(node, root)
        return root

    def part(self, start: int, end: int) -> CompactRange:
        """The subtree over the leaves from `start` to `end`, as far as this tree has them.

        Raises:
            ValueError: That subtree does not consist of complete subtrees at the edge; the
                hashes of its leaves would be needed.
        """
        nodes = []
        position = covered = 0
        for exponent, node in zip(_exponents(self.size), self.edge, strict=True):
            width = 1 << exponent
            if start <= position and position + width <= end:
                nodes.append(node)
                covered += width
            position += width
        if covered != min(end, self.size) - start:
            raise ValueError(
                f"the subtree of the leaves {start} to {end} can't be had from the edge of a tree "
                f"of {self.size} leaves"
            )
        return CompactRange(covered, tuple(nodes))

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON values: ``{"size": n, "edge": [64 hexadecimal digits, ...]}``."""
        return {"size": self.size, "edge": [node.hex() for node in self.edge]}

    @classmethod
    def from_dict(cls, members: Any) -> CompactRange:
        """Read what `to_dict` made.

        Raises:
            JournalCorrupt: It is not what `to_dict` can have made. Whether it belongs to the
                journal at hand only its root can tell.
        """
        try:
            return cls(members["size"], tuple(bytes.fromhex(node) for node in members["edge"]))
        except (KeyError, TypeError, ValueError) as error:
            raise JournalCorrupt(
                f"the stored state of the Merkle tree can't be used: {error!r}; seal again from "
                "the start of the journal"
            ) from error


def _appended(size: int, edge: tuple[bytes, ...], hashes: list[bytes]) -> tuple[bytes, ...]:
    """The edge after `hashes`: binary addition, a whole level at a time."""
    left = list(edge)
    right = []
    while hashes:
        if size & 1:
            hashes = [left.pop(), *hashes]
        if len(hashes) & 1:
            right.append(hashes[-1])
        pairs = iter(hashes)
        # Not node_hash(): the call would cost a tenth. zip leaves out an odd last one.
        hashes = [sha256(_NODE + a + b).digest() for a, b in zip(pairs, pairs, strict=False)]
        size >>= 1
    return (*left, *reversed(right))


def _exponents(size: int) -> Iterator[int]:
    return (bit for bit in reversed(range(size.bit_length())) if size >> bit & 1)


def inclusion_path(
    index: int, size: int, hashes: Iterable[bytes], *, removed: CompactRange | None = None
) -> list[bytes]:
    """PATH(m, D[n]) of RFC 6962, section 2.1.1, in one pass with O(log n) memory.

    Args:
        index: The leaf to prove, from 0.
        size: Leaves of the tree to prove it in.
        hashes: The leaf hashes in order, at least up to `size`.
        removed: The tree of the leaves that are no longer there (retention); `hashes` then
            begins after them, and only later leaves can be proved.

    Raises:
        ValueError: `index` is not in the tree, or among the removed leaves.
        JournalCorrupt: `hashes` ended before `size`.
    """
    first = removed.size if removed else 0
    if not first <= index < size:
        raise ValueError(f"leaf {index} can't be proved: there are {first} to {size - 1}")
    siblings = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_width(end - start)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    return _subtree_roots(siblings[::-1], hashes, removed)


def consistency_path(
    old_size: int, size: int, hashes: Iterable[bytes], *, removed: CompactRange | None = None
) -> list[bytes]:
    """PROOF(m, D[n]) of RFC 6962, section 2.1.2, in one pass with O(log n) memory.

    The path is empty when the sizes are equal or `old_size` is 0.

    Args:
        old_size: Leaves of the older tree.
        size: Leaves of the newer tree.
        hashes: As for `inclusion_path`.
        removed: As for `inclusion_path`; `old_size` must be at least its size.

    Raises:
        ValueError: `old_size` is greater than `size`, or smaller than the removed tree.
        JournalCorrupt: `hashes` ended before `size`.
    """
    first = removed.size if removed else 0
    if not first <= old_size <= size:
        raise ValueError(f"a tree of {old_size} leaves can't be compared: {first} to {size} can")
    if old_size == 0:
        return []
    subtrees = []
    start, end = 0, size
    while end != old_size:
        middle = start + _left_width(end - start)
        if old_size <= middle:
            subtrees.append((middle, end))
            end = middle
        else:
            subtrees.append((start, middle))
            start = middle
    if start:  # else the subtree is the old tree itself, whose root the verifier has
        subtrees.append((start, end))
    return _subtree_roots(subtrees[::-1], hashes, removed)


def _left_width(width: int) -> int:
    """Leaves of the left child: the largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def _subtree_roots(
    subtrees: Sequence[tuple[int, int]], hashes: Iterable[bytes], removed: CompactRange | None
) -> list[bytes]:
    """Roots of disjoint subtrees (first leaf, leaf after the last), in the order asked for."""
    removed = removed or CompactRange()
    source = iter(hashes)
    position = removed.size
    roots = {}
    for start, end in sorted(subtrees):
        if start < removed.size:
            # Left of a leaf that is still there, complete subtrees are made of the edge's.
            tree = removed.part(start, end)
        else:
            tree = CompactRange()
            position += sum(1 for _ in islice(source, start - position))
        missing = end - start - tree.size
        tree = tree.extended(islice(source, missing))
        position += missing
        if tree.size != end - start:
            raise JournalCorrupt(
                f"the journal has fewer lines than the tree to prove: line {end - 1} is missing"
            )
        roots[start] = tree.root()
    return [roots[start] for start, _ in subtrees]


def inclusion_holds(
    line_hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Whether a leaf is in a tree (RFC 9162, section 2.1.3.2).

    Args:
        line_hash: `leaf_hash` of the line.
        index: Number of the leaf, from 0.
        size: Leaves of the tree.
        path: The inclusion path, from the leaf's sibling upwards.
        root: Root of the tree. It does not bind the size: take both from one signed checkpoint.
    """
    if not 0 <= index < size or not _are_hashes(line_hash, *path):
        return False
    at, last = index, size - 1
    computed = line_hash
    for node in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            computed = node_hash(node, computed)
            at, last = _above_right_edge(at, last)
        else:
            computed = node_hash(computed, node)
        at >>= 1
        last >>= 1
    return last == 0 and computed == root


def consistency_holds(
    old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the first leaves of a tree are those of an older one (RFC 9162, 2.1.4.2).

    The RFC leaves an empty older tree open; as in C2SP's tlog-witness it goes with every tree
    and needs an empty path.
    """
    if not 0 <= old_size <= size or not _are_hashes(old_root, root, *path):
        return False
    if old_size in (0, size):
        return not path and old_root == (root if old_size == size else EMPTY_ROOT)
    if not path:
        return False
    # The root of a complete tree is the path's own first hash, and left out.
    nodes = list(path) if old_size & (old_size - 1) else [old_root, *path]
    at, last = old_size - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old_computed = computed = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old_computed = node_hash(node, old_computed)
            computed = node_hash(node, computed)
            at, last = _above_right_edge(at, last)
        else:
            computed = node_hash(computed, node)
        at >>= 1
        last >>= 1
    return last == 0 and old_computed == old_root and computed == root


def _are_hashes(*nodes: bytes) -> bool:
    return all(len(node) == HASH_BYTES for node in nodes)


def _above_right_edge(at: int, last: int) -> tuple[int, int]:
    """Skip the levels where a node at the right edge has no sibling."""
    while at and not at & 1:
        at >>= 1
        last >>= 1
    return at, last
