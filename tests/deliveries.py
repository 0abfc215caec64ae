"""Makes webhook deliveries as Klaviyo does, from its documentation and not from our code."""

import hashlib
import hmac
import json
import time
from email.utils import formatdate

from tests import planted

SECRET = planted.WEBHOOK_SECRET
WEBHOOK_ID = "0a1b2c3d" * 8


def delivery(number=0, *, secret=SECRET, at=None, webhook_id=WEBHOOK_ID, body=None):
    """Body and headers of one delivery that is signed right."""
    if body is None:
        events = [
            {
                "external_id": f"event-{number}-{index}",
                "topic": "event:klaviyo.sent_sms",
                "payload": {"data": {"attributes": {"email": planted.EMAIL}}},
            }
            for index in range(2)
        ]
        meta = {"klaviyo_account_id": "AbC123", "klaviyo_webhook_id": webhook_id}
        body = json.dumps({"data": events, "meta": meta}).encode()
    timestamp = formatdate(time.time() if at is None else at, usegmt=True)
    mac = hmac.new(secret.encode(), body + timestamp.encode(), hashlib.sha256)
    return body, {
        "Content-Type": "application/json",
        "Klaviyo-Signature": mac.hexdigest(),
        "Klaviyo-Timestamp": timestamp,
        "Klaviyo-Webhook-Id": webhook_id,
    }
