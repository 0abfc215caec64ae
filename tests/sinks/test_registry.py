import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings import load
from klaviyo_audit.sinks import registry
from klaviyo_audit.sinks.base import CheckpointSink, Sink
from klaviyo_audit.sinks.registry import checked, known_sinks, make_sink
from tests.waiting import PATIENCE


def test_built_in_sinks_are_made_by_name():
    for name in ("console", "memory", "stdout"):
        sink = make_sink(name, load())
        assert isinstance(sink, Sink)
        assert sink.name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError) as caught:
        make_sink("stdoutt", load())
    message = str(caught.value)
    assert "there is no sink 'stdoutt'; did you mean stdout?" in message
    assert all(name in message for name in known_sinks())


def test_looking_for_sinks_imports_none():
    code = """
import sys
from klaviyo_audit.sinks.registry import known_sinks
known_sinks()
print("klaviyo_audit.sinks.console" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.strip() == "False"


class Named:
    def __init__(self, name):
        self.name = name

    def deliver(self, entries):
        pass

    def close(self):
        pass


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", "1 / 0", "make = 7", "", "def make(settings): raise TypeError"]
)
def test_a_package_that_cannot_make_its_sink_is_named(tmp_path, monkeypatch, code):
    (tmp_path / "broken_sink.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_sink", raising=False)
    point = EntryPoint("mine", "broken_sink:make", registry.GROUP)
    monkeypatch.setattr(registry, "known_sinks", lambda: {"mine": point})
    with pytest.raises(ConfigurationError, match=r"'mine' \(broken_sink:make\) cannot be made"):
        Auditor(journal=tmp_path / "trail", sinks=["mine"])


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b", "a/b", "x" * 65, ".hidden"])
def test_a_name_that_cannot_name_a_folder_is_refused(name):
    with pytest.raises(ConfigurationError, match="small letters"):
        checked(Named(name), "it")


@pytest.mark.parametrize("thing", [object(), Named(None), print])
def test_what_is_no_sink_is_refused(thing):
    with pytest.raises(ConfigurationError, match="lacks"):
        checked(thing, "it")


def test_a_sink_need_not_take_checkpoints():
    assert not isinstance(Named("a"), CheckpointSink)
