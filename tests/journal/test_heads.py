"""The heads of many lines, cut at once, are those that the layout gives to each line alone."""

import re
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_audit.journal.heads import HeadCutter, head_of, writer_id
from tests.journal.checking import verify

UUID = "019ab2f4-5e80-7c31-9a44-0f6e2d1c8b57"
TIME = "2026-11-23T19:00:00.123456Z"


def line(*, start='{"v":1,"id":"', n=42, key=UUID, name="timestamp", time=TIME, phase="outcome"):
    body = (
        f'{start}{key}","writer":"9f2c41d07a3be815","n":{n},"{name}":"{time}","phase":"{phase}",'
        f'"action":"test","user_id":"u","pad":"{"x" * 60}"'
    ).encode()
    return body + b',"sum":"%b"}\n' % sha256(body).hexdigest()[:16].encode()


HIDDEN_PHASE = '","phase":"gap","zzz":"aaaa'
"""As long as a time: the real phase comes before the place at which it is looked for."""

WRONG = {
    "another name": line(name="timestamq"),
    "a name with another length": line(name="time"),
    "a backslash in the time": line(time=TIME[:-2] + "\\\\"),
    "a number in the id": line(key='","n":7,"idxxxxxxx-9' + UUID[20:]),
    "a member in the id": line(key='x","id":"01-1234567' + UUID[19:]),
    "a backslash in the id": line(key="\\\\" + UUID[2:]),
    "another version": line(start='{"v":2,"id":"'),
    "another first member": line(start='{"v":1,"ix":"'),
    "the beginning twice": line(start='{"v":{"v":1,"id":"'),
    "a number with a zero": line(n="042"),
    "a number with 19 digits": line(n=10**18),
    "no number": line(n=""),
    "a phase of its own": line(phase="outcomes"),
}


def alone(raw):
    head = head_of(raw)
    return head and (bytes(head.writers[0]), head.numbers[0], head.phases[0], head.ids)


def columns(heads):
    if heads is None:
        return None
    ids = [heads.ids[at : at + 8] for at in range(0, len(heads.ids), 8)]
    return [*zip(map(bytes, heads.writers), heads.numbers, heads.phases, ids, strict=True)]


def test_good_lines_are_cut_at_once():
    lines = [line(n=n, phase=phase) for n in (7, 8, 99, 100) for phase in ("intent", "outcome")]
    for some in (lines[:4], lines):
        cut = columns(HeadCutter().cut(some))
        assert cut == [alone(one) for one in some]
    assert writer_id(cut[0][0]) == "9f2c41d07a3be815"
    assert columns(HeadCutter().cut([line(time=" " * 27)])) == [alone(line(time=" " * 27))]


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("other", [42, 7])
def test_what_is_laid_out_otherwise_is_not_cut(what, place, other):
    """At any place among others, whose numbers have as many digits or fewer."""
    lines = [line(n=other), line(n=other + 1)]
    lines.insert(place, WRONG[what])
    assert head_of(WRONG[what]) is None
    assert HeadCutter().cut(lines) is None
    assert HeadCutter().cut([WRONG[what]]) is None


def test_the_first_phase_counts():
    hidden = line(time=HIDDEN_PHASE)
    assert head_of(hidden).phases == ["gap"]
    assert HeadCutter().cut([hidden]) is None
    assert HeadCutter().cut([line(), hidden]) is None


@pytest.mark.parametrize("what", WRONG)
def test_both_verifiers_refuse_it(tmp_path, what):
    (tmp_path / "audit.jsonl").write_bytes(WRONG[what])
    assert "foreign" in {one.kind for one in verify(tmp_path).findings}


text = st.text(st.sampled_from('"\\:,{}v1nidtmespa09-Z '), max_size=40)


@given(
    st.lists(
        st.one_of(
            st.integers(0, 10**19).map(lambda n: line(n=n)),
            st.builds(lambda key, cut: line(key=key + UUID[cut:]), text, st.integers(0, 36)),
            st.builds(lambda time, cut: line(time=time + TIME[cut:]), text, st.integers(0, 27)),
            text.map(lambda name: line(name=name)),
            st.builds(lambda at, new: changed(line(), at, new), st.integers(5, 120), text),
        ),
        min_size=1,
        max_size=4,
    )
)
@example([line(), line(time=HIDDEN_PHASE)])
def test_never_otherwise_than_alone(lines):
    """Cut together lines are as each is alone; or they are not cut, and looked at one by one."""
    cut = columns(HeadCutter().cut(lines))
    if cut is not None:
        assert cut == [alone(one) for one in lines]
    for one in lines:
        cut = columns(HeadCutter().cut([one]))
        assert cut in (None, [alone(one)])


def changed(raw, at, new):
    return re.sub(rb"[\r\n]", b"", raw[:at] + new.encode() + raw[at + len(new) :]) + b"\n"
