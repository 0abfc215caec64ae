"""Celery; run as a script it sends tasks for several users."""

import os
import sys

from celery import Celery
from klaviyo_api import KlaviyoAPI

from klaviyo_audit import acting_as, audit
from klaviyo_audit.integrations.celery import propagate_actor

app = Celery("shop", broker=os.environ["BROKER"])
propagate_actor()


def klaviyo():
    return audit(KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"]))


@app.task(name="shop.look", bind=True, max_retries=3)
def look(self, number):
    klaviyo().Lists.get_list(f"Llook{number}x{self.request.retries}")
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    later.delay(number)


@app.task(name="shop.later")
def later(number):
    klaviyo().Lists.get_list(f"Llater{number}")


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        with acting_as(f"u{number}", reason=f"order {number}", ticket=f"T{number}"):
            look.delay(number)
    later.delay("nobody")
