"""An audited call leaves nothing to the garbage collector, though the SDK's own calls do."""

import gc
import itertools

import pytest
from openapi_client.exceptions import ApiException

from klaviyo_audit import instrument, uninstrument


def _garbage(call):
    """How many objects a call leaves in cycles: the least of five counts, as other threads leave some."""
    for _ in range(3):
        call()
    gc.disable()
    try:
        return min(_left_by(call) for _ in range(5))
    finally:
        gc.enable()


def _left_by(call):
    gc.collect()
    for _ in range(10):
        call()
    return gc.collect() / 10


def test_garbage_is_counted_though_others_leave_some_now_and_then():
    calls = itertools.count()

    def call():
        for _ in range(1000 if next(calls) == 5 else 2):
            cycle = []
            cycle.append(cycle)

    assert _garbage(call) == 2


def test_a_call_leaves_no_garbage(klaviyo, client):
    get = klaviyo.Profiles.get_profile
    assert _garbage(lambda: get("01H")) < 1
    bare = client.Profiles.get_profile
    if _garbage(lambda: bare("01H")) < 1:
        pytest.skip("this SDK leaves no garbage itself")


def test_nor_does_one_of_an_instrumented_program(client, auditor):
    instrument(auditor)
    try:
        get = client.Profiles.get_profile
        assert _garbage(lambda: get("01H")) < 1
    finally:
        uninstrument()


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
