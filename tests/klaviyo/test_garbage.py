"""An audited call leaves nothing to the garbage collector, though the SDK's own calls do."""

import json
import subprocess
import sys

import pytest
from openapi_client.exceptions import ApiException

from tests import planted
from tests.waiting import PATIENCE

# In a process of its own: the collector is everybody's, also of threads that other tests have left.
COUNTED = """
import gc, json, sys
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor, instrument

def garbage(call):
    for _ in range(3):
        call()
    gc.disable()
    gc.collect()
    for _ in range(10):
        call()
    found = gc.collect() / 10
    gc.enable()
    return found

def cycles():
    for _ in range(2):
        cycle = []
        cycle.append(cycle)

client = KlaviyoAPI(sys.argv[2], test_host=sys.argv[1])
auditor = Auditor(journal="trail", sinks=[], seal="off")
audited, bare = auditor.audit(client).Profiles.get_profile, client.Profiles.get_profile
counts = {
    "cycles": garbage(cycles),
    "bare": garbage(lambda: bare("01H")),
    "audited": garbage(lambda: audited("01H")),
}
instrument(auditor)
counts["instrumented"] = garbage(lambda: bare("01H"))
auditor.close()
print(json.dumps(counts))
"""


def test_a_call_leaves_no_garbage(fake, trail):
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, fake.url, planted.API_KEY],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["cycles"] == 2, "it counts"
    assert counts["audited"] < 1
    assert counts["instrumented"] < 1
    assert len(trail.outcomes()) == 2 * 13
    if counts["bare"] < 1:
        pytest.skip("this SDK leaves no garbage itself")


def test_a_failed_call_keeps_its_frames_for_the_traceback(klaviyo, fake):
    fake.fail(404, times=None)
    with pytest.raises(ApiException) as caught:
        klaviyo.Profiles.get_profile("missing")
    frames = []
    trace = caught.value.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    (operation,) = [frame for frame in frames if frame.f_code.co_name == "get_profile"]
    assert operation.f_locals["id"] == "missing"
