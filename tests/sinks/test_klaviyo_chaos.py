"""A sample of `klaviyo_chaos`, which runs all of it."""

import pytest

from tests.sinks import klaviyo_chaos


@pytest.mark.timeout(700)
def test_nothing_is_lost_and_nothing_is_there_twice(tmp_path):
    figures = klaviyo_chaos.run(tmp_path, entries=1_500, kills=6, troubles=10, seed=4)
    print(figures)
    assert figures.missing == []
    assert figures.twice == []
    assert figures.foreign == []
    assert figures.repeats_in_jobs == 0
    assert figures.entries == 1_500 + 4
    assert figures.kills == 6
    assert sum(figures.troubles.values()) == 10
    assert figures.jobs > 5
