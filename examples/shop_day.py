"""A day in a shop's life: the real Klaviyo SDK, over real HTTP, with an audit trail.

Run it with ``make demo``. Klaviyo is played by a server on this machine; with ``KLAVIYO_API_KEY``
set, ``make demo LIVE=1`` reads your own account instead (reads only).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from klaviyo_api import KlaviyoAPI
from openapi_client.exceptions import ApiException

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.sinks.console import ConsoleSink

SYNC_KEY = "pk_demo_sync_key"
CRM_KEY = "pk_demo_crm_key"


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def shop_day(auditor: Auditor) -> None:
    """What a shop's programs and people do in a day."""
    from klaviyo_audit.testing import FakeKlaviyo

    scopes = {
        SYNC_KEY: {"profiles:read", "lists:read", "lists:write"},
        CRM_KEY: {
            "profiles:read",
            "profiles:write",
            "events:write",
            "campaigns:write",
            "data-privacy:write",
        },
    }
    with FakeKlaviyo(keys=scopes) as fake:
        # One line makes an audited client of any KlaviyoAPI.
        crm = auditor.audit(KlaviyoAPI(CRM_KEY, test_host=fake.url))
        sync = auditor.audit(KlaviyoAPI(SYNC_KEY, test_host=fake.url, max_delay=1))

        say("08:00  A customer joins: the loyalty service makes a profile and an event for her.")

        @auditor.audited(action="loyalty.enrol", resource="customer:{customer}")
        def enrol(customer: int, email: str) -> str:
            profile = crm.Profiles.create_profile(
                {"data": {"type": "profile", "attributes": {"email": email}}}
            )
            crm.Events.create_event(
                {
                    "data": {
                        "type": "event",
                        "attributes": {
                            "metric": {
                                "data": {"type": "metric", "attributes": {"name": "Enrolled"}}
                            },
                            "profile": {
                                "data": {"type": "profile", "attributes": {"email": email}}
                            },
                            "properties": {"points": 100},
                        },
                    }
                }
            )
            return str(profile.data.id)

        with acting_as("loyalty-service"):
            profile_id = enrol(4711, "ada@shop.example")
        auditor.flush()

        say(
            "02:00  That night the sync reads her profile; Klaviyo is busy and the SDK tries again."
        )
        with acting_as("nightly-sync", batch="2026-11-23"):
            fake.fail(429, times=1, path="/api/profiles/{id}")
            sync.Profiles.get_profile(profile_id)
            fake.fail(404, times=1, path="/api/profiles/{id}")
            auditor.flush()
            attempt(sync.Profiles.get_profile, "01HDOESNOTEXIST")
        auditor.flush()

        say("10:00  Next morning Marco in marketing sends the winter campaign.")
        with acting_as("marco", reason="winter campaign, approved by Lea"):
            crm.Campaigns.send_campaign(
                {"data": {"type": "campaign-send-job", "id": "01HWINTERCAMPAIGN"}}
            )
        auditor.flush()

        say("11:00  Somebody tries to do the same with the sync's key, which may not.")
        with acting_as("nightly-sync"):
            attempt(
                sync.Campaigns.send_campaign,
                {"data": {"type": "campaign-send-job", "id": "01HWINTERCAMPAIGN"}},
            )
        auditor.flush()

        say("15:00  Ada asks to be forgotten; Dana in support does it, and says why.")
        with acting_as("dana", reason="GDPR request 2026-118", on_behalf_of="customer 4711"):
            crm.Data_Privacy.request_profile_deletion(
                {
                    "data": {
                        "type": "data-privacy-deletion-job",
                        "attributes": {
                            "profile": {
                                "data": {
                                    "type": "profile",
                                    "attributes": {"email": "ada@shop.example"},
                                }
                            }
                        },
                    }
                }
            )
        auditor.flush()


def live(auditor: Auditor, key: str) -> None:
    """Read one's own account: three calls, none of which changes anything."""
    klaviyo = auditor.audit(KlaviyoAPI(key))
    say("Reading your account: its name, five profiles, its lists.")
    with acting_as(os.environ.get("USER", "demo"), reason="trying klaviyo-audit"):
        attempt(klaviyo.Accounts.get_accounts)
        attempt(klaviyo.Profiles.get_profiles, page_size=5)
        attempt(klaviyo.Lists.get_lists)
    auditor.flush()


def attempt(call, *args, **kwargs):
    """The SDK raises as it always does; the trail has it, and the day goes on."""
    try:
        return call(*args, **kwargs)
    except ApiException as error:
        print(f"       (the program got {type(error).__name__}, status {error.status})", flush=True)
        return None


def verify(folder: Path) -> int:
    # Standard output is flushed first, so that the two programs' lines come in order.
    sys.stdout.flush()
    command = [sys.executable, "-m", "klaviyo_audit", "verify", str(folder)]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    key = os.environ.get("KLAVIYO_API_KEY")
    is_live = os.environ.get("LIVE") == "1"
    if is_live and not key:
        print("LIVE=1 needs your private key in KLAVIYO_API_KEY (reads only).", file=sys.stderr)
        return 2

    folder = Path(tempfile.mkdtemp(prefix="klaviyo-audit-demo-")) / "trail"
    console = ConsoleSink(sys.stdout)
    with Auditor(
        journal=folder, sinks=[console], service="demo-shop", environment="demo"
    ) as auditor:
        if is_live and key:
            live(auditor, key)
        else:
            shop_day(auditor)

    say(f"The trail is in {folder / 'audit.jsonl'}; does it hold?")
    intact = verify(folder)

    say("Now somebody flips one bit in the middle of a copy of it.")
    forged = folder.with_name("forged")
    shutil.copytree(folder, forged)
    data = bytearray((forged / "audit.jsonl").read_bytes())
    data[len(data) // 2] ^= 1
    (forged / "audit.jsonl").write_bytes(data)
    damaged = verify(forged)

    say(
        "Your own client, in three lines:\n\n"
        "    from klaviyo_audit import audit\n"
        '    klaviyo = audit(KlaviyoAPI(os.environ["KLAVIYO_API_KEY"]))\n'
        '    klaviyo.Profiles.get_profile("01H...")   # recorded in ./klaviyo-audit/audit.jsonl\n\n'
        "Then: klaviyo-audit tail -f, klaviyo-audit verify; docs/guide.md has the rest."
    )
    return 0 if (intact, damaged) == (0, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
