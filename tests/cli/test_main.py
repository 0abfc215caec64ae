"""The command line as a whole."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from klaviyo_audit import __version__
from klaviyo_audit.cli import main
from klaviyo_audit.entry import AuditEntry, json_schema
from tests import planted

KEY = planted.API_KEY


def test_help_names_every_command():
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    for name in main.commands:
        assert f"\n  {name} " in done.stdout
    for name in ("verify", "tail", "schema"):
        assert name in main.commands
        assert CliRunner().invoke(main, [name, "-h"]).exit_code == 0


def test_version():
    assert __version__ in CliRunner().invoke(main, ["--version"]).stdout


def test_schema_is_that_of_the_entry():
    done = CliRunner().invoke(main, ["schema"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json_schema()
    assert set(AuditEntry.__dataclass_fields__) == set(json.loads(done.stdout)["properties"])


def test_help_imports_neither_the_sdk_nor_what_only_commands_need():
    program = """
import sys
import pytest
from click.testing import CliRunner
from klaviyo_audit.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
print(*{name.split(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "klaviyo_audit" in loaded
    assert loaded.isdisjoint({"klaviyo_api", "openapi_client", "pydantic", "rich"})


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "verify", "--env", KEY],
        ["keys", "rotate", "--old", KEY, "--new", "NEW"],
        ["query", ".", "--since", KEY],
        ["query", ".", KEY, KEY],
        ["query", f"--{KEY}"],
        [KEY],
        ["verify", KEY],
        ["scan", KEY],
        ["scopes", "--code", KEY],
        ["config", "check", "--policy", KEY],
        ["check", "--journal", KEY, KEY],
        ["check", "--wrong", KEY],
    ],
)
def test_a_key_on_the_command_line_is_not_repeated(command, tmp_path):
    """Typed where the name of its variable belongs, it would stay in the log of a CI job."""
    done = CliRunner().invoke(main, command)
    assert done.exit_code != 0
    assert KEY not in done.output
    assert done.output


def test_the_commands_say_that_something_is_wrong_with_what_they_mask(tmp_path):
    done = CliRunner().invoke(main, ["keys", "verify", "--env", KEY])
    assert done.exit_code == 2
    assert done.stderr == "klaviyo-audit: the environment variable [secret] is not set\n"
