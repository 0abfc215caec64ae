import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.sinks.shipper import Pace, Shipper
from tests.waiting import PATIENCE


class Recorded:
    """A sink that keeps what it gets, and raises what it is told to, one after the other."""

    def __init__(self, name="recorded"):
        self.name = name
        self.entries = []
        self.calls = []
        self.raises = []
        self.closed = False

    def deliver(self, entries):
        self.calls.append(list(entries))
        if self.raises:
            error = self.raises.pop(0)
            if error is not None:
                raise error(entries) if callable(error) and not isinstance(error, type) else error
        self.entries += entries

    def close(self):
        self.closed = True

    @property
    def actions(self):
        """What was recorded, without the lines about the journal itself."""
        return [entry.action for entry in self.entries if entry.phase != "journal"]


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def write(trail):
    """Write entries by a program of their own: an opening line, the events, a goodbye."""

    def write(*actions, **settings):
        with Auditor(journal=trail.folder, sinks=[], **settings) as auditor:
            for action in actions:
                auditor.record(action)

    return write


@pytest.fixture
def told():
    """What the shippers of a test have told."""
    return []


@pytest.fixture
def shipper(trail, told):
    """Make shippers of the test's journal."""
    made = []

    def make(sink, **options):
        options.setdefault("tell", told.append)
        pace = {"deadline": PATIENCE, "retry_most": 0.02} | options.pop("pace", {})
        shipper = Shipper(trail.folder, sink, pace=Pace(**pace), **options)
        made.append(shipper)
        return shipper

    yield make
    for shipper in made:
        shipper.close()


@pytest.fixture
def ship(shipper):
    """Deliver what there is to a sink, as one process would."""

    def ship(sink, **options):
        worker = shipper(sink, **options)
        done = worker.run_once(PATIENCE)
        worker.close()
        return done

    return ship
