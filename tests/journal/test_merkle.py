"""The tree against vectors of RFC 6962 logs, a tree written by the book, and pymerkle."""

import itertools
import json
import os
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    CompactRange,
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
    leaf_hash,
    node_hash,
)
from tests.waiting import PATIENCE

# The test tree of Certificate Transparency's implementations. Source: transparency-dev/merkle,
# testonly/constants.go (LeafInputs, RootHashes) and testdata/*/happy-path.json.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (index, size): path
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {  # (old size, size): path
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


# --- the oracle: RFC 6962, section 2.1, word by word ---------------------------------------------


def split(n):
    return next(1 << k for k in itertools.count() if 1 << (k + 1) >= n)


def mth(lines):
    if not lines:
        return sha256(b"").digest()
    if len(lines) == 1:
        return sha256(b"\x00" + lines[0]).digest()
    k = split(len(lines))
    return sha256(b"\x01" + mth(lines[:k]) + mth(lines[k:])).digest()


def path_of(m, lines):
    if len(lines) == 1:
        return []
    k = split(len(lines))
    if m < k:
        return [*path_of(m, lines[:k]), mth(lines[k:])]
    return [*path_of(m - k, lines[k:]), mth(lines[:k])]


def subproof(m, lines, whole):
    if m == len(lines):
        return [] if whole else [mth(lines)]
    k = split(len(lines))
    if m <= k:
        return [*subproof(m, lines[:k], whole), mth(lines[k:])]
    return [*subproof(m - k, lines[k:], False), mth(lines[:k])]


def made_lines(n):
    return [b'{"v":1,"n":%d}' % number for number in range(n)]


def tree_of(lines):
    return CompactRange().extended(map(leaf_hash, lines))


def hexes(nodes):
    return [node.hex() for node in nodes]


def flipped(value, bit):
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- forgeries -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_inclusion_proof_fails(data):
    lines = made_lines(data.draw(st.integers(1, 40)))
    size = len(lines)
    index = data.draw(st.integers(0, size - 1))
    root = mth(lines)
    path = path_of(index, lines)
    good = (leaf_hash(lines[index]), index, size, path, root)
    assert inclusion_holds(*good)

    bit = data.draw(st.integers(0, 255))
    assert not inclusion_holds(flipped(good[0], bit), *good[1:])
    assert not inclusion_holds(*good[:4], flipped(root, bit))
    for other in {*range(-1, size + 2)} - {index}:
        assert not inclusion_holds(good[0], other, size, path, root)
    for at in range(len(path)):
        changed = [*path[:at], flipped(path[at], bit), *path[at + 1 :]]
        assert not inclusion_holds(*good[:3], changed, root)
        assert not inclusion_holds(*good[:3], path[:at] + path[at + 1 :], root)
        assert not inclusion_holds(*good[:3], [*path[:at], path[at][:31], *path[at + 1 :]], root)
    for extra in (root, good[0], EMPTY_ROOT):
        assert not inclusion_holds(*good[:3], [*path, extra], root)
        assert not inclusion_holds(*good[:3], [extra, *path], root)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_consistency_proof_fails(data):
    lines = made_lines(data.draw(st.integers(2, 40)))
    size = len(lines)
    old = data.draw(st.integers(1, size - 1))
    old_root, root, path = mth(lines[:old]), mth(lines), subproof(old, lines, True)
    assert consistency_holds(old, old_root, size, root, path)

    bit = data.draw(st.integers(0, 255))
    assert not consistency_holds(old, flipped(old_root, bit), size, root, path)
    assert not consistency_holds(old, old_root, size, flipped(root, bit), path)
    assert not consistency_holds(size, root, old, old_root, path)
    assert not consistency_holds(old, old_root, size, root, [])
    for at in range(len(path)):
        changed = [*path[:at], flipped(path[at], bit), *path[at + 1 :]]
        assert not consistency_holds(old, old_root, size, root, changed)
        assert not consistency_holds(old, old_root, size, root, path[:at] + path[at + 1 :])
    for extra in (root, old_root, EMPTY_ROOT):
        assert not consistency_holds(old, old_root, size, root, [*path, extra])
        assert not consistency_holds(old, old_root, size, root, [extra, *path])


@pytest.mark.parametrize("size", range(2, 20))
def test_no_proof_joins_two_histories(size):
    lines = made_lines(size)
    for old in range(1, size):
        for changed in range(old):
            other = [*lines]
            other[changed] = b"another line"
            path = consistency_path(old, size, map(leaf_hash, other))
            assert not consistency_holds(old, mth(lines[:old]), size, mth(other), path)
            path = consistency_path(old, size, map(leaf_hash, lines))
            assert not consistency_holds(old, mth(lines[:old]), size, mth(other), path)


def test_an_inner_node_is_not_taken_for_a_line():
    # The second preimage that the prefixes of RFC 6962 are there to stop.
    lines = made_lines(4)
    left, right = mth(lines[:2]), mth(lines[2:])
    assert not inclusion_holds(leaf_hash(left + right), 0, 1, [], mth(lines))
    assert mth([left + right]) != mth(lines)


def test_the_empty_tree_goes_with_every_tree_without_a_path():
    root = mth(made_lines(5))
    assert consistency_holds(0, EMPTY_ROOT, 5, root, [])
    assert consistency_holds(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert not consistency_holds(0, root, 5, root, [])
    assert not consistency_holds(0, EMPTY_ROOT, 5, root, [root])
    assert not consistency_holds(0, EMPTY_ROOT, 0, root, [])


def test_equal_trees_need_equal_roots_without_a_path():
    root, other = mth(made_lines(5)), mth(made_lines(4))
    assert consistency_holds(5, root, 5, root, [])
    assert not consistency_holds(5, root, 5, other, [])
    assert not consistency_holds(5, root, 5, root, [root])


def test_a_path_has_to_reach_the_root_of_a_tree_of_that_size():
    lines = made_lines(2)
    path = subproof(1, lines, True)
    assert consistency_holds(1, mth(lines[:1]), 2, mth(lines), path)
    for size in range(3, 70):
        assert not consistency_holds(1, mth(lines[:1]), size, mth(lines), path)
        assert not inclusion_holds(leaf_hash(lines[0]), 0, size, path_of(0, lines), mth(lines))


@pytest.mark.parametrize("short", [b"", b"x", EMPTY_ROOT[:31], EMPTY_ROOT + b"x"])
def test_what_is_no_hash_proves_nothing(short):
    assert not inclusion_holds(short, 0, 1, [], short)
    assert not consistency_holds(5, short, 5, short, [])
    # The bytes that are hashed are the same, only divided otherwise.
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    both = left + right
    assert not inclusion_holds(both[:31], 0, 2, [both[31:]], node_hash(left, right))


def test_nothing_is_in_an_empty_tree():
    assert not inclusion_holds(EMPTY_ROOT, 0, 0, [], EMPTY_ROOT)


# --- vectors -------------------------------------------------------------------------------------


def test_hashes_are_those_of_the_rfc():
    # Source: transparency-dev/merkle, rfc6962/rfc6962_test.go.
    assert leaf_hash(b"L123456").hex() == (
        "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    )
    assert node_hash(b"N123", b"N456").hex() == (
        "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )
    assert EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    assert tree_of(LEAVES[:size]).root().hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_paths_are_the_published_ones(index, size):
    path = inclusion_path(index, size, map(leaf_hash, LEAVES))
    assert hexes(path) == INCLUSION[index, size]
    root = bytes.fromhex(ROOTS[size])
    assert inclusion_holds(leaf_hash(LEAVES[index]), index, size, path, root)


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_consistency_paths_are_the_published_ones(old, size):
    path = consistency_path(old, size, map(leaf_hash, LEAVES))
    assert hexes(path) == CONSISTENCY[old, size]
    old_root, root = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size])
    assert consistency_holds(old, old_root, size, root, path)


# --- against the oracle --------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=8), max_size=40), max_size=8))
def test_any_batches_make_the_tree_of_all_lines(batches):
    tree = CompactRange()
    for batch in batches:
        tree = tree.extended(map(leaf_hash, batch))
    lines = [line for batch in batches for line in batch]
    assert tree.size == len(lines)
    assert tree.root() == mth(lines)
    assert tree == tree_of(lines)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 3000])
def test_more_lines_than_are_read_at_once(size):
    assert tree_of(made_lines(size)).root() == mth(made_lines(size))


def test_extending_leaves_the_old_tree_alone():
    old = tree_of(made_lines(5))

    def broken():
        yield leaf_hash(b"one more")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        old.extended(broken())
    assert old == tree_of(made_lines(5))


@pytest.mark.parametrize("size", range(1, 24))
def test_every_proof_is_the_rfcs_and_holds(size):
    lines = made_lines(size)
    hashes = [leaf_hash(line) for line in lines]
    root = mth(lines)
    for number in range(size):
        path = inclusion_path(number, size, hashes)
        assert path == path_of(number, lines)
        assert inclusion_holds(hashes[number], number, size, path, root)
        old = number + 1
        path = consistency_path(old, size, hashes)
        assert path == subproof(old, lines, True)
        assert consistency_holds(old, mth(lines[:old]), size, root, path)
    assert consistency_path(0, size, hashes) == []


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_proofs_of_lines_that_are_left_need_no_removed_line(data):
    size = data.draw(st.integers(1, 70))
    gone = data.draw(st.integers(0, size - 1))
    index = data.draw(st.integers(gone, size - 1))
    lines = made_lines(size)
    removed = tree_of(lines[:gone])
    left = [leaf_hash(line) for line in lines[gone:]]
    assert inclusion_path(index, size, left, removed=removed) == path_of(index, lines)
    if old := data.draw(st.integers(gone, size)):
        path = consistency_path(old, size, left, removed=removed)
        assert path == subproof(old, lines, True)


def test_a_tree_as_large_as_can_be():
    top = 1 << 62
    tree = CompactRange(top, (leaf_hash(b"all that came before"),)).extended([leaf_hash(b"last")])
    assert inclusion_holds(leaf_hash(b"last"), top, top + 1, [tree.edge[0]], tree.root())
    assert consistency_holds(top, tree.edge[0], top + 1, tree.root(), [leaf_hash(b"last")])
    assert not inclusion_holds(leaf_hash(b"last"), top, top + 2, [tree.edge[0]], tree.root())


# In a process of its own: what threads of other tests allocate meanwhile would be counted.
IN_ONE_PASS = """
import json, sys, tracemalloc
from klaviyo_audit.journal.merkle import inclusion_path, leaf_hash

size, taken = int(sys.argv[1]), 0

def hashes():
    global taken
    for number in range(size):
        taken += 1
        yield leaf_hash(b"%d" % number)

source = hashes()
tracemalloc.start()
path = inclusion_path(12_345, size, source)
print(json.dumps([taken, tracemalloc.get_traced_memory()[1], [one.hex() for one in path]]))
"""


def test_a_proof_is_made_in_one_pass_with_little_memory():
    size = 20_000
    command = [sys.executable, "-c", IN_ONE_PASS, str(size)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    taken, peak, path = json.loads(done.stdout)
    assert taken == size
    assert peak < size * 32 / 2  # half of what the bare hashes would take
    root = tree_of(b"%d" % number for number in range(size)).root()
    assert inclusion_holds(leaf_hash(b"12345"), 12_345, size, [*map(bytes.fromhex, path)], root)


# --- against another implementation --------------------------------------------------------------


@pytest.fixture
def pymerkle():
    try:
        import pymerkle
    except ImportError:
        if os.environ.get("KLAVIYO_AUDIT_REQUIRE_PEERS") == "1":
            raise
        pytest.skip("pymerkle is not installed (pip install pymerkle)")
    return pymerkle


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 64, 100])
def test_pymerkle_agrees(pymerkle, size):
    lines = made_lines(size)
    peer = pymerkle.InmemoryTree(algorithm="sha256")
    peer.append_entries(lines)
    hashes = [leaf_hash(line) for line in lines]
    assert peer.get_root(size) == tree_of(lines).root()
    for index in range(size):
        # pymerkle counts from one, and its path begins with the leaf itself.
        theirs = peer.prove_inclusion(index + 1, size).path
        assert theirs == [hashes[index], *inclusion_path(index, size, hashes)]
    # Its consistency paths are of another kind than the RFC's; the roots they join are the same.
    for old in range(1, size + 1):
        assert peer.get_root(old) == tree_of(lines[:old]).root()


# --- misuse and damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 5, 6])
def test_a_leaf_that_is_not_there_is_refused(index):
    with pytest.raises(ValueError, match=f"leaf {index} can't be proved: there are 0 to 4"):
        inclusion_path(index, 5, map(leaf_hash, made_lines(5)))


def test_a_removed_leaf_is_refused():
    lines = made_lines(9)
    left = [leaf_hash(line) for line in lines[5:]]
    with pytest.raises(ValueError, match="leaf 4 can't be proved: there are 5 to 8"):
        inclusion_path(4, 9, left, removed=tree_of(lines[:5]))
    with pytest.raises(ValueError, match="tree of 4 leaves can't be compared: 5 to 9 can"):
        consistency_path(4, 9, left, removed=tree_of(lines[:5]))


def test_a_journal_that_lost_lines_is_not_proved_from():
    hashes = [leaf_hash(line) for line in made_lines(7)]
    with pytest.raises(JournalCorrupt, match="fewer lines"):
        inclusion_path(2, 8, hashes)
    with pytest.raises(JournalCorrupt, match="fewer lines"):
        consistency_path(3, 8, hashes)


def test_a_part_that_would_need_leaves_is_refused():
    tree = tree_of(made_lines(5))
    assert tree.part(0, 4).root() == mth(made_lines(4))
    assert tree.part(4, 9) == tree_of(made_lines(5)[4:])
    for start, end in [(0, 2), (1, 5), (2, 4), (5, 4)]:
        with pytest.raises(ValueError, match="can't be had"):
            tree.part(start, end)


@pytest.mark.parametrize(
    ("size", "edge"),
    [
        (-1, ()),
        (MAX_SIZE + 1, (EMPTY_ROOT,)),
        (True, (EMPTY_ROOT,)),
        (0, (EMPTY_ROOT,)),
        (3, (EMPTY_ROOT,)),
        (1, (b"short",)),
    ],
)
def test_an_impossible_tree_is_refused(size, edge):
    with pytest.raises(ValueError, match="tree"):
        CompactRange(size, edge)


@given(st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_a_stored_tree_comes_back(size):
    tree = tree_of(made_lines(size))
    assert CompactRange.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("0123456789abcdef", max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(JSON, JSON)
@settings(max_examples=150, deadline=None)
def test_a_damaged_stored_tree_is_reported(size, edge):
    for members in (size, {"size": size}, {"size": size, "edge": edge}):
        try:
            tree = CompactRange.from_dict(members)
        except JournalCorrupt:
            continue
        assert tree.to_dict()["size"] == size
        assert len(tree.edge) == tree.size.bit_count()
