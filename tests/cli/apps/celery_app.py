"""A Celery program on a broker that is a folder; run as a script it sends tasks."""

import os
import sys

from celery import Celery

app = Celery(
    "shop",
    broker="filesystem://",
    broker_transport_options={
        "data_folder_in": "queue",
        "data_folder_out": "queue",
        "control_folder": "queue/control",
        "polling_interval": 0.1,
    },
)


@app.task(name="shop.look")
def look(user, number):
    from klaviyo_api import KlaviyoAPI

    from klaviyo_audit import acting_as

    klaviyo = KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"])
    with acting_as(user):
        klaviyo.Lists.get_list(f"L{number}")


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        app.send_task("shop.look", (f"u{number}", number))
