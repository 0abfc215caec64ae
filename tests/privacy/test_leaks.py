"""No canary gets out: calls of all operations, with canaries wherever a program can put one.

LEAK_CALLS=20000 makes as many calls, and prints the figure.
"""

import base64
import contextlib
import io
import json
import logging
import os
import threading
from functools import cache
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from klaviyo_api import KlaviyoAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.cli import main
from klaviyo_audit.integrations.logging import AuditFilter
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.privacy import Gate, assembly
from klaviyo_audit.sinks.console import ConsoleSink
from klaviyo_audit.sinks.klaviyo import events as klaviyo_events
from klaviyo_audit.sinks.memory import InMemorySink
from klaviyo_audit.testing import FakeKlaviyo
from tests.contract.arguments import TEXT, arguments_for
from tests.privacy import canaries, receivers

CALLS = int(os.environ.get("LEAK_CALLS", "250"))
KEY = "0123456789abcdef0123456789abcdef"
GROUPS = sorted(catalog.api_groups(KlaviyoAPI))
POLICY = """
[privacy]
level = "request_response"
[[privacy.rules]]
operations = ["lists.*"]
level = "none"
[[privacy.rules]]
users = ["meta*"]
level = "metadata"
"""


@cache
def operations():
    """Group, name and function of every operation of the installed SDK."""
    client = KlaviyoAPI("not-a-key")
    found = []
    for group in GROUPS:
        api = type(getattr(client, group))
        for name in sorted(catalog.operations(api)):
            found.append((group, name, getattr(api, name)))
    return found


def planted(value, draw):
    """The value with a canary for each free string, if the SDK's models take it."""
    if isinstance(value, BaseModel):
        body = plant(json.loads(json.dumps(value.to_dict(), default=str)), draw)
        try:
            return type(value).model_validate(body)
        except ValueError:
            return value
    return draw(canaries.anything) if value == TEXT else value


def plant(value, draw):
    if isinstance(value, dict):
        grown = {name: plant(member, draw) for name, member in value.items()}
        for name, member in grown.items():
            if name in ("properties", "attributes") and isinstance(member, dict):
                member.update(draw(extras))
        return grown
    if isinstance(value, list):
        return [plant(member, draw) for member in value]
    return draw(canaries.anything) if value == TEXT else value


extras = st.fixed_dictionaries(
    {},
    optional={
        "email": canaries.emails,
        "phone_number": canaries.phones,
        "external_id": canaries.external_ids,
        "first_name": canaries.names,
        "last_name": canaries.names,
        "location": st.fixed_dictionaries({"address1": canaries.addresses}),
        "properties": st.dictionaries(canaries.anything, canaries.anything, max_size=2),
        "custom_source": canaries.found_in_text,
        "title": canaries.anything,
    },
)
metadata = st.dictionaries(
    st.one_of(canaries.found_in_text, st.sampled_from(["note", "items", "ticket"])),
    st.recursive(
        canaries.found_in_text,
        lambda inner: st.lists(inner, max_size=2)
        | st.fixed_dictionaries({"a": inner, "first_name": canaries.names,
                                 "shippingAddress": canaries.addresses}),
        max_leaves=4,
    ),
    max_size=2,
)  # fmt: skip
answers = st.one_of(
    st.none(),
    st.builds(
        lambda status, text, header: (status, text, header),
        st.sampled_from([200, 201, 400, 403, 404, 409, 500]),
        canaries.anything,
        canaries.found_in_text,
    ),
)


class World:
    """One auditor with everything that can put something out."""

    def __init__(self, folder, **given):
        policy = folder / "policy.toml"
        policy.write_text(POLICY)
        self.console = io.StringIO()
        self.memory = InMemorySink()
        self.fake = FakeKlaviyo(keep=1).start()
        self.folder = folder / "trail"
        self.auditor = Auditor(
            journal=self.folder,
            sinks=[ConsoleSink(self.console, all_phases=True), self.memory],
            service="shop",
            policy=policy,
            **given,
        )
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.auditor.observe(tracer_provider=provider)
        self.messages = io.StringIO()
        self.handler = logging.StreamHandler(self.messages)
        logging.getLogger("klaviyo_audit").addHandler(self.handler)
        self.log = io.StringIO()
        self.log_handler = logging.StreamHandler(self.log)
        self.log_handler.addFilter(AuditFilter(auditor=self.auditor))
        self.log_handler.setFormatter(logging.Formatter("%(audit_user)s %(audit_id)s %(message)s"))
        logging.getLogger("shop").addHandler(self.log_handler)
        client = self.fake.client(api_key="pk_" + "5ec12e7f00" * 3 + "5ec1", max_retries=1)
        self.client = self.auditor.audit(client)
        self.read = 0
        self.calls = 0
        self.groups = set()

    def close(self):
        self.auditor.flush(10)
        self.auditor.close()
        self.fake.close()
        logging.getLogger("klaviyo_audit").removeHandler(self.handler)
        logging.getLogger("shop").removeHandler(self.log_handler)

    def about_dana(self):
        """What the reports about a person have to tell of."""
        person = {"type": "profile", "attributes": {"email": "dana@example.com"}}
        subscribed = {"email": {"marketing": {"consent": "SUBSCRIBED"}}}
        profile = {
            "type": "profile",
            "attributes": {**person["attributes"], "subscriptions": subscribed},
        }
        change = {"data": {"type": "profile-subscription-bulk-create-job", "attributes": {
            "custom_source": "form of zqmail0000aa@mail.example.com",
            "profiles": {"data": [profile]}}}}  # fmt: skip
        with acting_as(
            "lea", reason="as +15009000000 asked", note="pk_5ec12e7f0000aa0123456789abcdef"
        ):
            _quiet(self.client.Profiles.create_profile, {"data": person})
            _quiet(self.client.Profiles.bulk_subscribe_profiles, change)

    def call(self, draw):
        group, name, function = draw(st.sampled_from(operations()))
        arguments = {key: planted(one, draw) for key, one in arguments_for(function).items()}
        if "filter" in function.__annotations__ and draw(st.booleans()):
            arguments["filter"] = draw(canaries.found_in_text)
        suffix = draw(st.sampled_from(["", "_with_http_info", "_without_preload_content"]))
        operation = getattr(getattr(self.client, group), name + suffix)
        answer = draw(answers)
        if answer is not None:
            status, text, header = answer
            error = {"errors": [{"id": text, "code": "invalid", "detail": text, "title": text}]}
            data = {"data": {"type": "profile", "id": "01H", "attributes": draw(extras)}}
            body = json.dumps(error if status >= 400 else data).encode()
            clean = header.isascii() and header.isprintable()
            headers = {"x-klaviyo-req-id": header} if clean else {}
            self.fake.fail(status, body=body, headers=headers)
        self.calls += 1
        self.groups.add(group)
        with acting_as(
            draw(st.sampled_from(["dana", "meta-1"])) + draw(st.just("") | canaries.secrets),
            reason=draw(canaries.found_in_text),
            on_behalf_of=draw(st.none() | canaries.secrets),
            ip=draw(st.none() | canaries.found_in_text),
            note=draw(metadata),
        ):
            self._call_in_function(draw, operation, arguments)
        self.fake.heal()

    def _call_in_function(self, draw, operation, arguments):
        text = draw(canaries.found_in_text)
        bad = type(draw(canaries.found_in_text), (Exception,), {})

        @self.auditor.audited(
            action="shop.step", resource="thing:{what}", capture=("what", "first_name"),
            metadata=lambda what, first_name: {"email": what, "deep": [what]},
        )  # fmt: skip
        def step(what, first_name):
            logging.getLogger("shop").warning("a step")
            try:
                operation(**arguments)
            except Exception:
                raise bad(text) from None

        thread = threading.Thread(target=step, args=(text, "Zqname000001"), name=text)
        if draw(st.booleans()):
            with contextlib.suppress(bad):
                step(text, "Zqname000001")
        else:
            before, threading.excepthook = threading.excepthook, lambda _: None
            try:
                thread.start()
                thread.join()
            finally:
                threading.excepthook = before
        self.auditor.record(
            "shop.event", resource=draw(canaries.found_in_text), metadata=draw(metadata),
            user_id=draw(st.none() | canaries.secrets),
        )  # fmt: skip

    def new_output(self):
        """What the journal and the logs got since the last time."""
        with (self.folder / "audit.jsonl").open("rb") as file:
            file.seek(self.read)
            new = file.read()
        self.read += len(new)
        return new.decode() + self.messages.getvalue()

    def outputs(self):
        """What came out of the program's process, by what it came out of."""
        self.auditor.flush(60)
        files = {f"file {path.relative_to(self.folder)}": path.read_bytes()
                 for path in self.folder.rglob("*") if path.is_file()}  # fmt: skip
        return files | {
            "console": self.console.getvalue(),
            "memory": "\n".join(str(one) for one in self.memory.entries),
            "spans": "\n".join(one.to_json() for one in self.spans.get_finished_spans()),
            "own log": self.messages.getvalue(),
            "program's log": self.log.getvalue(),
        }

    def all_output(self):
        return "\n".join(one if isinstance(one, str) else one.decode("utf-8", "replace")
                         for one in self.outputs().values())  # fmt: skip


REPORTS = (
    ["query", "--json"], ["query"], ["tail", "-n", "100000", "--all"], ["verify"], ["status"],
    ["status", "--json"], ["subject", "dana@example.com"],
    ["subject", "dana@example.com", "--actors", "--format", "json"],
    ["subject", "dana@example.com", "--actors", "--format", "html"],
    ["consent", "dana@example.com", "--json"], ["consent", "dana@example.com"],
)  # fmt: skip
FORGET = ["forget", "dana@example.com", "--json"]
MASTER = "fedcba9876543210" * 2


def reports(folder, commands=REPORTS, **settings):
    """What the commands say about the trail; the person asked for is none of the canaries."""
    environment = {f"KLAVIYO_AUDIT_{name.upper()}": value for name, value in settings.items()}
    said = {}
    for arguments in commands:
        done = CliRunner().invoke(main, [*arguments, str(folder)], env=environment)
        assert done.exit_code in (0, 1), done.output
        said[" ".join(arguments)] = done.output
    return said


@pytest.mark.timeout(14_400)
@pytest.mark.parametrize(
    "settings_given", [{"actor_ids": "keep"}, {"actor_ids": "pseudonym", "subject_keys": "on",
                                               "subject_master_key": MASTER}],
    ids=["keys", "subject keys"],
)  # fmt: skip
def test_no_canary_gets_out(tmp_path, capfd, settings_given):
    given_all = {"pseudonym_key": KEY, **settings_given}
    leaked = []
    world = World(tmp_path, **given_all)

    @settings(
        max_examples=max(CALLS // 2, 1), phases=(Phase.generate,), database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def calls(data):
        if world.calls % 100 == 0:
            world.about_dana()
        world.call(data.draw)
        # Not asserted here: Hypothesis would make the call again, and find that it is another one.
        leaked.extend(canaries.leaks(world.new_output()))

    try:
        calls()
        outputs = world.outputs()
    finally:
        world.close()
    assert leaked == []
    lines = outputs["file audit.jsonl"].count(b'"phase":"outcome"')
    assert lines >= world.calls
    received = receivers.shipped(world.folder, KEY)
    outputs |= {f"sink {name}": b"\n".join(taken) for name, taken in received.items()}
    said = reports(world.folder, **given_all)
    assert "dana@example.com" in said["subject dana@example.com"]
    assert sum("bulk_subscribe_profiles" in one for one in said.values()) >= 4, "about something"
    if "subject_keys" in settings_given:
        said |= reports(world.folder, [FORGET], **given_all)
        said |= {f"{name}, after": one for name, one in reports(world.folder, **given_all).items()}
    # Receipts, bookmarks, dead letters and what the reports wrote.
    outputs |= said | world.outputs()
    captured = capfd.readouterr()
    outputs |= {"standard output": captured.out, "standard error": captured.err}
    size = 0
    for name, output in outputs.items():
        assert canaries.leaks(output) == [], name
        size += len(output)
    for name, least in {"klaviyo": lines, "otlp http": lines, "otlp grpc": lines, "kafka": lines,
                        "stdout": lines, "refusing": lines}.items():  # fmt: skip
        # What a receiver got is the whole of it.
        got = sum(one.count(b"outcome") for one in received[name])
        assert got >= least or name == "klaviyo", (name, got, least)
        assert received[name], name
    with capfd.disabled():
        print(
            f"\n{world.calls} calls of {len(world.groups)} API groups, {lines} outcomes, "
            f"{len(outputs)} outputs of {size / 1e6:.1f} MB: no canary", end=" ",
        )  # fmt: skip


class OpenGate(Gate):
    """What a gate must not be."""

    def text(self, text, limit=1_000):
        return text

    path = token = identity = name = setting = text

    def value(self, value):
        return value


class ClosedGate(Gate):
    """Lets nothing of what it is given through."""

    def text(self, text, limit=1_000):
        return "closed"

    path = token = identity = name = setting = text

    def value(self, value):
        return {"closed": True}

    def pseudonym(self, kind, value):
        return "closed"

    def is_identifier(self, value):
        return False


@pytest.mark.may_hold_planted_secrets
def test_a_broken_gate_is_found_out(tmp_path, monkeypatch):
    """The test above can fail for each output: with a gate that is open, it does."""
    monkeypatch.setattr(
        assembly, "make_gate",
        lambda chosen: OpenGate(
            assembly.make_pseudonyms(chosen), policy=assembly.make_policy(chosen),
            environment=chosen.environment,
        ),
    )  # fmt: skip
    # The sink klaviyo cleans what it sends once more by itself.
    for name in ("clean_text", "clean_path"):
        monkeypatch.setattr(klaviyo_events, name, lambda text, *_: text)
    world = World(tmp_path, pseudonym_key=KEY)

    @settings(max_examples=6, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def calls(data):
        world.call(data.draw)

    try:
        world.about_dana()
        calls()
        with acting_as(f"lea pk_{'5ec12e7f00' * 3}5ec1"):
            logging.getLogger("shop").warning("a step")
            world.client.Profiles.get_profile("zqmail000001@mail.example.com")
        outputs = world.outputs()
    finally:
        world.close()
    received = receivers.shipped(world.folder, KEY)
    outputs |= {f"sink {name}": b"\n".join(taken) for name, taken in received.items()}
    outputs |= reports(world.folder, pseudonym_key=KEY)
    told = {name for name, output in outputs.items() if canaries.leaks(output)}
    assert told >= {
        "file audit.jsonl", "console", "memory", "spans", "program's log",
        *(f"sink {name}" for name in received),
        *(" ".join(one) for one in REPORTS if one[0] in ("query", "tail", "subject", "consent")),
    }  # fmt: skip


def test_a_digest_that_looks_like_a_number_is_none_in_protobuf_either():
    """Of 20,000 sums one had 11 such digits, and the byte behind it was the next field's "2"."""
    digest, number = "e0aef15009126975", "15009126975"
    assert canaries.leaks(b"\x12\n\x10" + digest.encode() + b"2\n\x05") == []
    assert canaries.leaks(f"email:k1:{digest * 2}2".encode()) == []
    for near in (
        b"\n\x0c" + number.encode() + b"2",
        b"k1:" + number.encode() + b"2",
    ):
        assert canaries.leaks(near + b"2") != []


@pytest.mark.parametrize(
    "encode",
    [
        str.upper, lambda text: quote(quote(text, safe=""), safe=""), lambda text: text[::-1],
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"a{text}".encode()).decode(),
        lambda text: text.encode().hex(), lambda text: text.encode("utf-16-be"),
        "\0".join, lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
        lambda text: "".join(f"%{ord(one):02X}" for one in text),
    ],
)  # fmt: skip
def test_a_canary_is_seen_in_any_form(encode):
    for canary in ("zqmail00ff11@mail.example.com", "pk_5ec12e7f00ff11" + "0123456789abcdef"):
        found = encode(canary)
        assert canaries.leaks(found if isinstance(found, bytes) else f"x {found} y") != []


def test_nothing_reaches_a_sink_around_the_gate(tmp_path, monkeypatch):
    """With a gate that lets nothing through, no word of the program's is in any output."""
    monkeypatch.setattr(
        assembly, "make_gate",
        lambda chosen: ClosedGate(
            policy=assembly.make_policy(chosen), environment=chosen.environment
        ),
    )  # fmt: skip
    world = World(tmp_path, user_id="zebra-user", environment="zebra-env", host="zebra-host")
    words = iter(f"zebra{number}" for number in range(1_000))
    body = {
        "data": {
            "type": "profile",
            "attributes": {"email": next(words), "properties": {next(words): next(words)}},
        }
    }
    bad = type(next(words), (Exception,), {"__module__": next(words)})

    def step(argument):
        for number in range(2):
            world.fake.fail(
                200 + 200 * number,
                body=json.dumps(
                    {"data": {"id": next(words)}, "errors": [{"id": next(words), "code": next(words)}]}
                ).encode(),
                headers={"x-klaviyo-req-id": next(words), "Retry-After": next(words),
                         "x-klaviyo-api-revision": next(words)},
            )  # fmt: skip
            world.client.api_client.default_headers["revision"] = next(words)
            _quiet(world.client.Profiles.update_profile_without_preload_content, next(words), body)
            _quiet(world.client.Profiles.get_profiles, filter=f'equals(email,"{next(words)}")')
        raise bad(next(words))

    audited = world.auditor.audited(
        step, action="shop.step", resource="zebra:{argument}", capture=("argument",),
        metadata={next(words): next(words)},
    )  # fmt: skip
    try:
        with acting_as(
            next(words), reason=next(words), on_behalf_of=next(words), ip=next(words),
            **{next(words): next(words)},
        ):  # fmt: skip
            thread = threading.Thread(target=lambda: _quiet(audited, next(words)), name=next(words))
            thread.start()
            thread.join()
            world.auditor.record(
                next(words), resource=next(words), metadata={next(words): next(words)},
                user_id=next(words),
            )  # fmt: skip
        output = world.all_output()
    finally:
        world.close()
    assert next(words) > "zebra30"
    assert output.count("closed") > 20
    assert len(world.spans.get_finished_spans()) == 5
    assert "zebra" not in output.lower()


def _quiet(function, *args, **named):
    with contextlib.suppress(Exception):
        function(*args, **named)
