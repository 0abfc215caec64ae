"""The command line as a whole."""

import json
import subprocess
import sys

from click.testing import CliRunner

from klaviyo_audit import __version__
from klaviyo_audit.cli import main
from klaviyo_audit.entry import AuditEntry, json_schema


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
