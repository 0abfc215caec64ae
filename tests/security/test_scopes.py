"""klaviyo-audit scopes, from the trail and from source: a key with just these scopes suffices."""

import json
import os
import random
import re
import subprocess
import sys

import pytest

from klaviyo_audit import AccessDenied, Auditor
from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security.code_scopes import read_code
from klaviyo_audit.testing import FakeKlaviyo
from tests.security.planting import git, made_up_key
from tests.waiting import PATIENCE

RNG = random.Random(41)

PROGRAM = '''
"""A program that names the SDK's operations in many ways."""
import os, sys
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor
from openapi_client.api.templates_api import TemplatesApi
from openapi_client.api import tags_api
from openapi_client.api.coupons_api import CouponsApi as Discounts

raw = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["HOST"], max_retries=1)
auditor = Auditor(journal="trail", service="program")
client = auditor.audit(raw)
client.Profiles.get_profiles()                              # plain, GET
client.Lists.delete_list_with_http_info("L1")               # a variant
events = client.Events
events.get_events_without_preload_content()                 # a group in a variable
segments, metrics = client.Segments, client.Metrics
segments.get_segments()
read = metrics.get_metrics                                  # an operation in a variable
read()
getattr(client.Flows, "get_flows")()                        # literals
getattr(client, "Catalogs").get_catalog_items()
TemplatesApi(client.api_client).get_templates()             # the API classes themselves
tags_api.TagsApi(client.api_client).get_tags()
Discounts(client.api_client).get_coupons()
class Shop:
    def __init__(self, client):
        self.images = client.Images
    def show(self):
        return self.images.get_images()
Shop(client).show()
def webhooks_of(webhooks):                                  # nothing says what this is
    return webhooks.get_webhooks()
webhooks_of(client.Webhooks)
'''


def command(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "scopes", *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd,
        env={**os.environ, **env},
    )  # fmt: skip


def run(program, fake, key):
    return subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=PATIENCE, check=False,
        cwd=program.parent, env={**os.environ, "KEY": key, "HOST": fake.url},
    )  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_key_made_from_source_suffices_and_none_of_its_scopes_is_too_many(program):
    done = command("--code", program.parent, "--format", "json", cwd=program.parent)
    assert done.returncode == 0, done.stderr
    needed = sorted(json.loads(done.stdout)["scopes"])
    assert len(needed) == 12
    key = made_up_key(RNG)
    with FakeKlaviyo(keys={key: needed}) as fake:
        first = run(program, fake, key)
        assert first.returncode == 0, first.stderr
        used = json.loads(
            command("--format", "json", cwd=program.parent, KLAVIYO_AUDIT_DIR="trail").stdout
        )
    (inside,) = used["environments"]
    (told,) = inside["keys"]
    assert told["fingerprint"] == fingerprint(key)
    # The trail, which was not asked before, says the same.
    assert told["minimal"] == needed
    assert told["refused"] == {}
    assert inside["guard"] is told["granted_unused"] is None


def test_each_scope_is_really_needed(program, tmp_path):
    """FakeKlaviyo refuses what lacks a scope, as a check of the test above."""
    needed = sorted(read_code(program).scopes())
    key = made_up_key(RNG)
    short = tmp_path / "program.py"
    short.write_text(PROGRAM)
    lacking = needed[len(needed) // 2]
    with FakeKlaviyo(keys={key: [scope for scope in needed if scope != lacking]}) as fake:
        assert "ForbiddenException" in run(short, fake, key).stderr
    text = command(cwd=tmp_path, KLAVIYO_AUDIT_DIR="trail").stdout
    assert re.search(rf"1  {lacking} +refused by Klaviyo \(403\)", text)


@pytest.mark.parametrize(
    ("source", "scopes"),
    [
        ("client.Profiles.get_profile(1)", {"profiles:read"}),
        (
            "client.Profiles.bulk_subscribe_profiles(1)",
            {"lists:write", "profiles:write", "subscriptions:write"},
        ),
        (
            "client.Profiles.subscribe_profiles(1)",
            {"lists:write", "profiles:write", "subscriptions:write"},
        ),
        ("make()['x'].Profiles.get_profile(1)", {"profiles:read"}),
        ("def f(api: ProfilesApi): api.get_profile(1)", {"profiles:read"}),
        ("def f(api: 'openapi_client.ProfilesApi'): api.get_profile(1)", {"profiles:read"}),
        ("if (p := client.Profiles): p.get_profile(1)", {"profiles:read"}),
        ("with open_it(client.Profiles) as p: p.get_profile(1)", {"profiles:read"}),
        (
            "p: object = client.Profiles\nasync def f(): await run(p.get_profile, 1)",
            {"profiles:read"},
        ),
        ("x.get_profile(1)", set()),  # no SDK in this file: somebody else's method
        ("import klaviyo_api\nx.get_profile(1)", {"profiles:read"}),
        ("client.Profiles.no_such_operation()", set()),
        ("client.Lists.get_profile(1)", set()),
        ("# client.Profiles.get_profile(1)\ns = 'client.Profiles.get_profile'", set()),
    ],
)
def test_forms(tmp_path, source, scopes):
    (tmp_path / "a.py").write_text(source)
    assert set(read_code(tmp_path).scopes()) == scopes


def test_what_cannot_be_known_is_told(tmp_path):
    (tmp_path / "a.py").write_text("p = client.Profiles\ngetattr(p, sys.argv[1])(1)\n")
    (tmp_path / "b.py").write_text("this is no Python\n")
    (tmp_path / "c.txt").write_text("client.Profiles.get_profile(1)")
    result = read_code(tmp_path)
    assert result.dynamic == [("a.py", 2)]
    assert result.unread == [("b.py", "SyntaxError")]
    done = command("--code", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "not known before it runs: a.py:2" in done.stdout
    assert "not read: b.py" in done.stderr
    assert command("--code", tmp_path / "gone", cwd=tmp_path).returncode == 2
    assert command(cwd=tmp_path).returncode == 2


def test_source_that_the_parser_gives_up_is_told(tmp_path):
    sources = {"deep.py": "-" * 200_000 + "1", "nested.py": "(" * 100_000, "nul.py": "a\0b"}
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    with (tmp_path / "large.py").open("wb") as file:
        file.truncate(2**34)
    (tmp_path / "sum.py").write_text("x = " + "+".join("1" * 50_000))
    (tmp_path / "z.py").write_text("client.Profiles.get_profile(1)\n")
    done = command("--code", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "profiles:read" in done.stdout
    assert "Traceback" not in done.stderr
    for name in (*sources, "large.py"):
        assert f"not read: {name}" in done.stderr


def test_ignored_files_are_not_read(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("venv/\n")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/a.py").write_text("client.Lists.get_lists()")
    (tmp_path / "a.py").write_text("client.Profiles.get_profile(1)")
    assert set(read_code(tmp_path).scopes()) == {"profiles:read"}


POLICY = """
version = 1
[guard]
allow = ["profiles:read", "events:*", "lists.delete_list"]
[[guard.rules]]
decision = "allow"
name = "importer's"
keys = ["IMPORT_KEY"]
scopes = ["catalogs:read"]
[[guard.rules]]
decision = "allow"
name = "only in staging"
environments = ["staging"]
operations = ["segments.get_segment*"]
[[guard.rules]]
decision = "deny"
scopes = ["events:write"]
"""


@pytest.fixture
def granted(tmp_path, monkeypatch):
    """A real trail of two keys in two environments, and a policy that it does not agree with."""
    (tmp_path / "policy.toml").write_text(POLICY)
    reader, importer = made_up_key(RNG), made_up_key(RNG)
    monkeypatch.setenv("READ_KEY", reader)
    monkeypatch.setenv("IMPORT_KEY", importer)
    keys = {reader: None, importer: None}
    with FakeKlaviyo(keys=keys) as fake:
        for environment, key in (
            ("staging", reader), ("production", reader), ("production", importer),
        ):  # fmt: skip
            with Auditor(journal="trail", environment=environment, service="shop") as auditor:
                client = auditor.audit(fake.client(api_key=key))
                client.Profiles.get_profiles()
                if environment == "staging":
                    client.Segments.get_segments()
                if key == importer:
                    client.Lists.get_lists()
                    client.Lists.get_lists()
        with Auditor(
            journal="trail", environment="production", service="shop", policy="policy.toml"
        ) as auditor:
            client = auditor.audit(fake.client(api_key=reader))
            with pytest.raises(AccessDenied):
                client.Flows.get_flows()
    return tmp_path, fingerprint(reader), fingerprint(importer)


def test_what_is_granted_and_what_was_used(granted):
    folder, reader, importer = granted
    policy = {"KLAVIYO_AUDIT_DIR": "trail", "KLAVIYO_AUDIT_POLICY": "policy.toml"}
    done = command("--format", "json", cwd=folder, **policy)
    assert done.returncode == 0, done.stderr
    told = {one["environment"]: one for one in json.loads(done.stdout)["environments"]}
    assert list(told) == ["production", "staging"]
    here = told["production"]
    keys = {one["fingerprint"]: one for one in here["keys"]}
    assert set(keys) == {reader, importer}
    # Granted, and no key in this environment used it; "events:*" but for what is denied.
    assert set(here["granted_unused"]["scopes"]) == {"events:read", "catalogs:read"}
    assert set(here["granted_unused"]["operations"]) == {"lists.delete_list"}
    assert "importer's" in here["granted_unused"]["scopes"]["catalogs:read"]
    # A rule for another key grants nothing to this one.
    assert set(keys[reader]["granted_unused"]["scopes"]) == {"events:read"}
    assert keys[reader]["used_ungranted"] == {"scopes": {}, "operations": {}}
    assert keys[reader]["denied"] == {"flows.get_flows": 1}
    assert keys[reader]["minimal"] == ["profiles:read"]
    assert set(keys[importer]["granted_unused"]["scopes"]) == {"events:read", "catalogs:read"}
    assert keys[importer]["used_ungranted"]["scopes"] == {"lists:read": {"lists.get_lists": 2}}
    assert keys[importer]["used_ungranted"]["operations"]["lists.get_lists"]["calls"] == 2
    assert keys[importer]["minimal"] == ["lists:read", "profiles:read"]
    staging = told["staging"]
    assert "segments.get_segments" not in staging["granted_unused"]["operations"]
    assert "segments.get_segment" in staging["granted_unused"]["operations"]
    assert staging["keys"][0]["used_ungranted"]["operations"] == {}
    assert staging["keys"][0]["minimal"] == ["profiles:read", "segments:read"]


def test_the_table_says_the_same(granted):
    folder, reader, importer = granted
    journal = ("--journal", "trail", "--policy", "policy.toml")
    done = command(*journal, "--environment", "production", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"{reader} READ_KEY (shop)" in rows
    assert "2 lists:read ! used, and not granted: lists.get_lists 2" in rows
    assert "1 flows.get_flows denied by the guard" in rows
    assert "- catalogs:read granted and not used: rule 1 'importer's'" in rows
    assert "a new key needs: lists:read profiles:read" in rows
    assert "no key used it: " in done.stdout
    assert "segments" not in done.stdout
    one = command(*journal, "--key", importer[:5], "--environment", "production", cwd=folder)
    assert importer in one.stdout
    assert reader not in one.stdout
    assert command(*journal, "--environment", "qa", cwd=folder).returncode == 2
    assert command(*journal, "--key", "0f0f0f0f", cwd=folder).returncode == 2
    assert command("--code", ".", "--policy", "policy.toml", cwd=folder).returncode == 2


def test_a_preset_for_no_such_environment_and_a_guard_that_lets_all_go(granted):
    folder, *_ = granted
    (folder / "policy.toml").write_text('[guard]\npreset = "environment"\n')
    policy = {"KLAVIYO_AUDIT_DIR": "trail", "KLAVIYO_AUDIT_POLICY": "policy.toml"}
    with Auditor(journal="trail", environment="qa", service="shop") as auditor, FakeKlaviyo() as f:
        auditor.audit(f.client(api_key=made_up_key(RNG))).Profiles.get_profiles()
    told = command("--format", "json", cwd=folder, **policy)
    assert told.returncode == 0, told.stderr
    found = {one["environment"]: one for one in json.loads(told.stdout)["environments"]}
    assert "there are presets for" in found["qa"]["problem"]
    assert "reading" in found["staging"]["granted_unused"]["scopes"]["flows:read"]
    (folder / "policy.toml").write_text('[guard]\ndefault = "allow"\n')
    told = command(cwd=folder, **policy)
    assert "everything" in told.stdout
    assert "default = allow" in told.stdout
