"""A process that ships a journal to Klaviyo until it is killed, or with ``--once`` to its end."""

import sys
import time
from pathlib import Path

from klaviyo_audit.settings import load
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.klaviyo import track as klaviyo_track
from klaviyo_audit.sinks.shipper import Pace, Shipper


def main() -> int:
    trail = Path(sys.argv[1])
    klaviyo_track._TIMEOUT = (1.0, 1.0)  # a hanging answer is given up sooner
    sink = KlaviyoSink(load(dir=trail))
    sink._api.transport()  # the SDK is imported before the clock of the test starts
    pace = Pace(batch_entries=40, batch_age=0.05, retry_most=0.2)
    shipper = Shipper(trail, sink, pace=pace, tell=lambda _: None)
    print("ready", flush=True)
    if "--once" in sys.argv:
        done = shipper.run_once(600)
        shipper.close()
        return 0 if done else 1
    while True:
        wait = shipper.step()
        time.sleep(min(0.02, 0.02 if wait is None else wait))


if __name__ == "__main__":
    sys.exit(main())
