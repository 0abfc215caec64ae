"""docs/journal-format.md says what the code does."""

import re
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from klaviyo_audit.entry import AuditEntry, Phase
from klaviyo_audit.journal.checkpoint import Checkpoint, open_checkpoint, sign
from klaviyo_audit.journal.findings import Kind
from klaviyo_audit.journal.format import checksum_holds, encode
from klaviyo_audit.journal.judgement import IN_FLIGHT_LINES, IN_FLIGHT_SECONDS
from klaviyo_audit.journal.merkle import CompactRange, leaf_hash
from klaviyo_audit.journal.note import Signer, Verifier
from klaviyo_audit.journal.removals import read_removals, signed_record
from tests.journal.forge import A, line

PAGE = (Path(__file__).parents[2] / "docs" / "journal-format.md").read_text()


def block(language):
    """The only fenced block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)
    return text


@pytest.fixture
def golden():
    return block("json").encode()


def test_the_golden_vector_holds(golden):
    assert checksum_holds(golden)
    assert AuditEntry.from_json(golden).n == 42
    size, covered = map(int, re.search(r"are (\d+) bytes.*?first (\d+)", PAGE, re.DOTALL).groups())
    assert len(golden) + 1 == size
    assert golden[covered:].startswith(b',"sum":"')
    digest = re.search(r"SHA-256 begins with\n`([0-9a-f]{32})`", PAGE)[1]
    assert sha256(golden[:covered]).hexdigest().startswith(digest)


def test_the_encoder_makes_the_golden_vector(golden):
    members = orjson.loads(golden)
    members.pop("sum")
    assert encode(members) == golden + b"\n"


def test_the_pages_own_function_agrees(golden):
    names = {}
    exec(block("python"), names)
    holds = names["holds"]
    assert holds(golden)
    assert holds(line(A, 1)[:-1])
    for at in range(0, len(golden), 7):
        assert not holds(golden[:at] + b"~" + golden[at + 1 :])


def test_the_layout_is_the_pages(golden):
    layout = re.search(r'`(\{"v":1,.*)`', PAGE)[1]
    pattern = re.sub(r"<\w+>", '[^"]+', re.escape(layout).replace(r"\<", "<").replace(r"\>", ">"))
    for text in (golden, line(A, 7)):
        assert re.match(pattern, text.decode())


def test_every_kind_of_finding_is_on_the_page_and_none_else():
    table = PAGE.split("## What `verify` reports")[1].split("\n## ")[0]
    told = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert sorted(told) == sorted(Kind)


def test_phases_and_limits():
    row = next(text for text in PAGE.splitlines() if text.startswith("| `phase`"))
    assert set(re.findall(r"`(\w+)`", row)) - {"phase"} == set(Phase)
    assert f"at most {IN_FLIGHT_SECONDS:.0f} seconds" in PAGE
    assert f"at most {IN_FLIGHT_LINES} numbers" in PAGE


def test_the_golden_tree_and_checkpoint():
    leaves = re.findall(r"^`([0-9a-f]{64})`", PAGE, re.MULTILINE)
    *leaves, root = leaves
    tree = CompactRange().extended(map(leaf_hash, (b"one", b"two", b"three")))
    assert [leaf_hash(line).hex() for line in (b"one", b"two", b"three")] == leaves
    assert tree.root().hex() == root
    seed = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signer = Signer("example.com/shop", seed)
    assert signer.verifier.to_text() == block("text")
    head = Checkpoint.of(tree, signer.name, sealed_at="2026-11-23T19:00:01.000000Z")
    note = block("note").encode() + b"\n"
    assert sign(head, signer) == note
    assert open_checkpoint(note, Verifier.from_text(block("text"))) == head


def test_the_golden_record_of_a_removal(tmp_path):
    tree = CompactRange().extended(map(leaf_hash, (b"one", b"two", b"three")))
    signer = Signer("example.com/shop", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    (tmp_path / "removed").write_bytes(block("removal").encode() + b"\n")
    (removal,) = read_removals(tmp_path)
    assert removal.is_signed_by(Verifier.from_text(block("text")))
    assert removal.tree == tree
    facts = {name: removal.facts[name] for name in removal.facts if name not in ("size", "root")}
    assert signed_record(facts, tree, signer) == (tmp_path / "removed").read_bytes()
