"""WebhookReceiver and the memories of deliveries, without a server."""

import asyncio
import io
import math
import os
import threading
import time
import tracemalloc
import types

import pytest

from klaviyo_audit import Auditor, AuditUnavailable, WebhookVerificationError
from klaviyo_audit.integrations import asgi_webhooks, wsgi_webhooks
from klaviyo_audit.integrations import replays as replays_module
from klaviyo_audit.integrations.replays import ReplayMemory, SharedReplayMemory
from klaviyo_audit.integrations.webhooks import WebhookReceiver, fingerprint, matches, normal_paths
from tests.deliveries import SECRET, delivery


@pytest.fixture(params=["own", "shared"])
def memory(request, tmp_path):
    return lambda capacity=1000: (
        ReplayMemory(capacity)
        if request.param == "own"
        else SharedReplayMemory(tmp_path / "replays", capacity)
    )


def test_a_delivery_is_taken_once(auditor, trail, memory):
    receiver = WebhookReceiver(SECRET, auditor=auditor, replays=memory())
    body, headers = delivery()
    assert receiver.receive(body, headers).topics == ("event:klaviyo.sent_sms",) * 2
    for spelt in (headers, {**headers, "X": "y"}, list(headers.items())[::-1]):
        with pytest.raises(WebhookVerificationError) as refused:
            receiver.receive(body, spelt)
        assert refused.value.reason == "replayed"
    receiver.failed(receiver.receive(*delivery(1)))
    receiver.receive(*delivery(1))
    verdicts = [entry["metadata"]["verdict"] for entry in trail.of("event")]
    assert verdicts == ["accepted", "refused", "refused", "refused", "accepted", "accepted"]


def test_nothing_personal_is_in_the_trail(auditor, trail):
    receiver = WebhookReceiver(SECRET, auditor=auditor)
    receiver.receive(*delivery())
    with pytest.raises(WebhookVerificationError):
        receiver.receive(b"{}", {"klaviyo-webhook-id": "planted.person@example.com"})
    taken, refused = trail.of("event")
    assert taken["metadata"]["signed_by"] == fingerprint(SECRET.encode())
    assert "claimed_webhook_id" not in refused["metadata"]
    assert "example.com" not in trail.path.read_text()


def test_a_replay_never_passes_however_many_deliveries_there_are(memory):
    replays = memory(50)
    now = time.time()
    for number in range(300):
        assert replays.claim(b"%d" % number, now + number / 1000, now + 300)
    assert [n for n in range(300) if replays.claim(b"%d" % n, now + n / 1000, now + 300)] == []
    # Nor does a late one that the memory can no longer tell from a replay.
    assert not replays.claim(b"late", now - 1, now + 299)
    assert replays.claim(b"new", now + 1, now + 301)
    if isinstance(replays, ReplayMemory):
        assert len(replays) == 50


@pytest.fixture
def clock(monkeypatch):
    """The time that the memories go by, in a list."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(replays_module, "time", types.SimpleNamespace(time=lambda: now[0]))
    return now


def test_what_age_refuses_anyway_is_forgotten(memory, clock):
    replays = memory(5)
    for number in range(50):
        # Not because the memory is full: a late one is still taken.
        assert replays.claim(b"%d" % number, clock[0], clock[0] + 300)
        assert replays.claim(b"late %d" % number, clock[0] - 10, clock[0] + 290)
        clock[0] += 301


def test_no_replay_passes_while_its_time_ends(memory, clock):
    """Its age was judged, and was good; a moment later, when the memory is asked, it is over."""
    replays = memory()
    sent, until = clock[0], clock[0] + 300
    assert replays.claim(b"a", sent, until)
    clock[0] = until + 0.01
    assert not replays.claim(b"a", sent, until)


def test_no_replay_passes_when_the_clock_is_set_back(memory, clock):
    replays = memory()
    sent, until = clock[0], clock[0] + 300
    assert replays.claim(b"a", sent, until)
    clock[0] += 301
    assert replays.claim(b"b", clock[0], clock[0] + 300)
    clock[0] -= 100
    assert not replays.claim(b"a", sent, until)
    assert replays.claim(b"c", clock[0], clock[0] + 300)
    assert replays.claim(b"any age", sent, math.inf)
    clock[0] += 1e9
    assert not replays.claim(b"any age", sent, math.inf)


def test_a_body_in_pieces_of_nothing_takes_no_memory(auditor):
    """Many empty messages, and bytes one by one, of which a list would hold each."""
    body, headers = delivery()
    pieces = [b""] * 200_000 + [bytes([one]) for one in body]
    asked = iter(enumerate(pieces, 1))
    answers = []

    async def receive():
        number, piece = next(asked)
        return {"type": "http.request", "body": piece, "more_body": number < len(pieces)}

    async def send(message):
        answers.append(message.get("status"))

    async def app(scope, receive, send):
        assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 204, "headers": []})

    listening = asgi_webhooks.KlaviyoWebhooks(app, SECRET, path=None, auditor=auditor)
    scope = {"type": "http", "path": "/", "headers": [
        (name.lower().encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
    tracemalloc.start()
    asyncio.run(listening(scope, receive, send))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answers[0] == 204
    assert peak < 1_000_000


def test_of_many_at_once_one_is_taken(memory):
    replays = memory()
    taken = []
    now = time.time()
    start = threading.Barrier(8)

    def claim():
        start.wait()
        for number in range(50):
            taken.append(replays.claim(b"%d" % number, now, now + 300))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 50


def test_a_shared_memory_survives_fork_and_restart(tmp_path):
    replays = SharedReplayMemory(tmp_path / "replays")
    now = time.time()
    assert replays.claim(b"before", now, now + 300)
    child = os.fork()
    if child == 0:
        seen = not replays.claim(b"before", now, now + 300)
        new = replays.claim(b"in the child", now, now + 300)
        os._exit(0 if seen and new else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not replays.claim(b"in the child", now, now + 300)
    assert not SharedReplayMemory(tmp_path / "replays").claim(b"before", now, now + 300)
    assert (tmp_path / "replays").stat().st_mode & 0o777 == 0o600


def test_a_memory_that_cannot_be_asked_accepts_nothing(auditor, trail, tmp_path):
    receiver = WebhookReceiver(
        SECRET, auditor=auditor, replays=SharedReplayMemory(tmp_path / "no such folder" / "replays")
    )
    with pytest.raises(AuditUnavailable, match="memory of deliveries|No such file"):
        receiver.receive(*delivery())
    assert trail.of("event")[-1]["metadata"]["reason"] == "replays_unknown"


def test_forgers_cannot_fill_the_disk(auditor, trail):
    receiver = WebhookReceiver(SECRET, auditor=auditor)
    for _ in range(1000):
        with pytest.raises(WebhookVerificationError):
            receiver.receive(b"{}", {})
    assert len(trail.of("event")) < 150
    receiver.receive(*delivery())
    events = [entry["metadata"] for entry in trail.of("event")]
    told = sum(facts.get("refusals_not_recorded", 0) for facts in events)
    assert told + len(events) - 1 == 1000


def test_without_a_record_nothing_is_accepted_in_block_mode(tmp_path):
    folder = tmp_path / "trail"
    with Auditor(journal=folder, on_failure="block", low_space_stop=0, low_space_warn=0) as auditor:
        receiver = WebhookReceiver(SECRET, auditor=auditor)
        body, headers = delivery()
        receiver.receive(*delivery(1))
        blocked = _break(auditor)
        with pytest.raises(AuditUnavailable, match="on_failure"):
            receiver.receive(body, headers)
        blocked()
        receiver.receive(body, headers)


def _break(auditor):
    """Let the journal refuse lines, as a full disk does; gives the way back."""
    writer = auditor._writer
    append = writer.append_line
    writer.append_line = lambda *_, **__: OSError(28, "No space left on device")
    auditor.recorder._writer = writer

    def mend():
        writer.append_line = append

    return mend


@pytest.mark.parametrize(
    ("path", "matching"),
    [
        ("/hook", True),
        ("/hook/", True),
        ("//hook", True),
        ("/HOOK", True),
        ("/hooks", False),
        ("/", False),
    ],
)
def test_paths(path, matching):
    assert matches(normal_paths("/hook"), path) is matching
    assert matches(normal_paths(["/x", "hook/"]), path) is matching
    assert matches(None, path)


def _wsgi_environ(body, headers):
    names = {f"HTTP_{name.upper().replace('-', '_')}": text for name, text in headers.items()}
    return {
        **names,
        "PATH_INFO": "/klaviyo",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }


def test_a_failed_delivery_may_come_again_as_soon_as_the_failure_is_seen_and_only_once(auditor):
    """A sender that sees the 500 may reach another worker before this one has cleaned up."""
    body, headers = delivery()

    def app(_environ, start_response):
        def parts():
            yield b"fail"
            raise RuntimeError("once more, after the status")

        start_response("500 Internal Server Error", [])
        return parts()

    wrapped = wsgi_webhooks.KlaviyoWebhooks(app, SECRET, path="/klaviyo", auditor=auditor)
    seen = []

    def start_response(line, _headers):
        seen.append(line)
        wrapped.receiver.receive(body, headers)  # the retry, accepted at another worker

    with pytest.raises(RuntimeError):
        list(wrapped(_wsgi_environ(body, headers), start_response))
    assert seen == ["500 Internal Server Error"]
    with pytest.raises(WebhookVerificationError) as refused:
        wrapped.receiver.receive(body, headers)
    assert refused.value.reason == "replayed"


def test_the_same_under_asgi(auditor):
    body, headers = delivery()

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise RuntimeError("as Starlette does, after its answer")

    wrapped = asgi_webhooks.KlaviyoWebhooks(app, SECRET, path="/klaviyo", auditor=auditor)
    pairs = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "path": "/klaviyo", "headers": pairs}

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        assert message["status"] == 500
        wrapped.receiver.receive(body, headers)

    with pytest.raises(RuntimeError, match="Starlette"):
        asyncio.run(wrapped(scope, receive, send))
    with pytest.raises(WebhookVerificationError) as refused:
        wrapped.receiver.receive(body, headers)
    assert refused.value.reason == "replayed"


def test_a_program_that_answers_nothing_has_failed(auditor):
    body, headers = delivery()

    async def silent(_scope, _receive, _send):
        return

    asgi = asgi_webhooks.KlaviyoWebhooks(silent, SECRET, path="/klaviyo", auditor=auditor)
    pairs = [(name.lower().encode(), text.encode()) for name, text in headers.items()]

    async def receive():
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "path": "/klaviyo", "headers": pairs}
    asyncio.run(asgi(scope, receive, None))
    wsgi = wsgi_webhooks.KlaviyoWebhooks(
        lambda _environ, _start: [], SECRET, path="/klaviyo", auditor=auditor
    )
    answer = wsgi(_wsgi_environ(body, headers), None)
    assert list(answer) == []
    answer.close()
    for receiver in (asgi.receiver, wsgi.receiver):
        receiver.receive(body, headers)
