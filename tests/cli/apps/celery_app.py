"""A Celery program; run as a script it sends tasks."""

import os
import sys

from celery import Celery
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import acting_as

app = Celery("shop", broker=os.environ["BROKER"])


@app.task(name="shop.look")
def look(user, number):
    klaviyo = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])
    with acting_as(user):
        klaviyo.Lists.get_list(f"L{number}")


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        app.send_task("shop.look", (f"u{number}", number))
