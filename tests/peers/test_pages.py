"""The HTML pages that the package makes, in a real browser: they load nothing, run nothing, and fit."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.testing import FakeKlaviyo
from tests.peers.conftest import required
from tests.peers.processes import PeerMissing
from tests.waiting import PATIENCE

CHROMIUM = Path(shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
KEY = "0123456789abcdef0123456789abcdef"
PERSON = "dana.with-a-rather-long-name.of-many-parts+newsletter@mail.subdomain.example.com"
HOSTILE = "<script>document.title='run'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
REASONS = (HOSTILE, "the customer asked for it on the phone; ticket 4711", "x" * 300, None)
WIDTHS = (1280, 400)

# Boxes that reach out of the window or whose content reaches out of them, and words that are broken.
MISFITS = """() => {
    const found = [];
    const wide = document.documentElement;
    if (wide.scrollWidth > window.innerWidth) found.push(`page: ${wide.scrollWidth}`);
    for (const element of document.body.querySelectorAll("*")) {
        const box = element.getBoundingClientRect();
        if (box.right > window.innerWidth + 0.5 || box.left < -0.5 ||
            (element.clientWidth && element.scrollWidth > element.clientWidth + 1))
            found.push(`${element.tagName}: ${element.textContent.slice(0, 40)}`);
    }
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    while (walker.nextNode()) {
        const node = walker.currentNode;
        for (const word of node.data.matchAll(/\\S+/gu)) {
            if (word[0].length > 12) continue;  // it may have to be
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            const tops = new Set([...range.getClientRects()].map(one => Math.round(one.top)));
            if (tops.size > 1) found.push(`broken: ${word[0]}`);
        }
    }
    return found;
}"""


def subject(folder, *options):
    environment = {**os.environ, "KLAVIYO_AUDIT_PSEUDONYM_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "klaviyo_audit", "subject", PERSON, "--format", "html", *options, folder],
        capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def trail(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "trail"
    consent = {"email": {"marketing": {"consent": "SUBSCRIBED"}}}
    profile = {"type": "profile", "attributes": {"email": PERSON, "subscriptions": consent}}
    change = {"data": {"type": "profile-subscription-bulk-create-job", "attributes": {
        "custom_source": "the form at the till of the shop in the Long Street",
        "profiles": {"data": [profile]}}, "relationships": {"list": {"data": {"type": "list", "id": "L1"}}}}}  # fmt: skip
    with FakeKlaviyo() as fake, Auditor(journal=folder, service="loyalty-service", environment="production",
                                        pseudonym_key=KEY) as auditor:  # fmt: skip
        client = auditor.audit(fake.client())
        for number, reason in enumerate(REASONS * 3):
            with acting_as(f"employee-{number}@shop.example", reason=reason):
                with contextlib.suppress(Exception):  # a second one is refused
                    client.Profiles.create_profile(
                        {"data": {"type": "profile", "attributes": {"email": PERSON}}}
                    )
                client.Profiles.bulk_subscribe_profiles(change)
    return folder


@pytest.fixture(scope="module")
def browser():
    with required():
        try:
            from playwright.sync_api import sync_playwright
        except ModuleNotFoundError:
            raise PeerMissing("playwright is missing: run `make peers`") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("options", [(), ("--actors",)], ids=["plain", "actors"])
def test_a_persons_account(trail, needed, request, tmp_path, width, options):
    needed(CHROMIUM)
    browser = request.getfixturevalue("browser")
    file = tmp_path / "account.html"
    file.write_text(subject(trail, *options), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked, said = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: said.append(one.text))
    page.on("dialog", lambda one: said.append(one.message))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    page.screenshot(path=tmp_path / "account.png", full_page=True)
    assert asked == [file.as_uri()]
    assert said == []
    assert page.title() == "Account of processing"
    assert page.evaluate("document.querySelectorAll('script, img, link, iframe').length") == 0
    assert page.evaluate(MISFITS) == []
    text = page.inner_text("body")
    for words in (PERSON, HOSTILE, "ticket 4711", "loyalty-service", "create profile", "x" * 300):
        assert words in text
    assert ("employee-3@shop.example" in text) is bool(options)
    page.close()
