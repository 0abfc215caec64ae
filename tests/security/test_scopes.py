"""klaviyo-audit scopes, from the trail and from source: a key with just these scopes suffices."""

import json
import os
import random
import subprocess
import sys

import pytest

from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security.code_scopes import read_code
from klaviyo_audit.security.scopes import missing_grants, unused_grants
from klaviyo_audit.testing import FakeKlaviyo
from tests.security.planting import git, made_up_key

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
        capture_output=True, text=True, timeout=60, check=False, cwd=cwd,
        env={**os.environ, **env},
    )  # fmt: skip


def run(program, fake, key):
    return subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False,
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
    assert [one["fingerprint"] for one in used] == [fingerprint(key)]
    # The trail, which was not asked before, says the same.
    assert used[0]["minimal"] == needed
    assert used[0]["refused"] == {}


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
    assert f"{lacking}  refused (403)" in text


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


def test_ignored_files_are_not_read(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("venv/\n")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/a.py").write_text("client.Lists.get_lists()")
    (tmp_path / "a.py").write_text("client.Profiles.get_profile(1)")
    assert set(read_code(tmp_path).scopes()) == {"profiles:read"}


def test_grants():
    used = ["profiles:read", "lists:write"]
    assert unused_grants(["profiles:read", "events:read", "*:read", "*:write"], used) == (
        "events:read",
    )
    assert unused_grants(["*"], []) == ("*",)
    assert missing_grants(["*:read"], dict.fromkeys(used)) == ("lists:write",)
    assert missing_grants(["*"], dict.fromkeys(used)) == ()
