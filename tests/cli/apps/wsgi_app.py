"""A WSGI program that has never heard of auditing but for who acts."""

import os

from klaviyo_api import KlaviyoAPI

from klaviyo_audit import acting_as

klaviyo = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])


def app(environ, start_response):
    _, user, number = environ["PATH_INFO"].split("/")
    with acting_as(user):
        klaviyo.Lists.get_list(f"L{number}")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"ok": true}']
