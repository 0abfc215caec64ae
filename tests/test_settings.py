"""Settings: precedence, every message a person may read, and that no secret gets out."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy import secrets
from klaviyo_audit.settings import (
    ENV_PREFIX,
    MASK,
    OTHER_VARIABLES,
    Settings,
    load,
    reference_table,
)
from klaviyo_audit.settings.sources import PATHS
from klaviyo_audit.settings.values import is_secret
from klaviyo_audit.sinks.filters import Filter
from tests.planted import API_KEY, SITE_KEY
from tests.waiting import PATIENCE

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
NAMES = tuple(Settings.model_fields)
WEB_TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJkYW5hIn0.c2lnbmF0dXJl"
USED = "swordfish-and-chips"
SECRETS = ("pseudonym_key", "subject_master_key", "signing_key")

FILE, ENV, CODE = 0, 1, 2
# Three values of each setting: as a TOML value, as the text of a variable, as code gives it.
SAMPLES = {
    "dir": ('"/a"', "/b", "/c"),
    "sinks": ('["a"]', "b,c", ("d",)),
    "durability": ('"fsync"', "async", "flush"),
    "on_failure": ('"block"', "continue", "block"),
    "intents": ('"all"', "none", "writes"),
    "user_id": ('"dana"', "eve", "finn"),
    "environment": ('"production"', "staging", "test"),
    "service": ('"loyalty"', "sync", "shop"),
    "host": ('"web-1"', "web-2", "web-3"),
    "capture": ('"none"', "request", "request_response"),
    "pseudonym_key": ('"file file file file"', "env env env env env", "code code code code"),
    "policy": ('"/a"', "/b", "/c"),
    "pseudonym_key_file": ('"/a"', "/b", "/c"),
    "pseudonym_key_command": ('"a b"', "c d", "e f"),
    "phone_region": ('"DE"', "FR", "GB"),
    "subject_keys": ('"on"', "off", "on"),
    "subject_master_key": ('"file file file file"', "env env env env env", "code code code code"),
    "forget_on_deletion": ("true", "false", True),
    "guard": ('"development"', "staging", "production"),
    "guard_mode": ('"observe"', "enforce", "observe"),
    "require_actor": ('"low"', "medium", "high"),
    "require_reason": ('"low"', "medium", "high"),
    "actor_ids": ('"pseudonym"', "keep", "pseudonym"),
    "signing_key": ('"file file file file"', "env env env env env", "code code code code"),
    "public_key": ('"log+1234abcd+AAAA"', "log+2", "log+3"),
    "origin": ('"example.com/file"', "example.com/env", "example.com/code"),
    "seal": ('"external"', "off", "external"),
    "seal_interval": ("2", "3s", 4.0),
    "seal_lines": ("2", "3", 4),
    "rotate_bytes": ('"2MB"', "3 MiB", 4_000_000),
    "rotate_age": ('"2d"', "3h", 4.0),
    "key_max_age": ('"2d"', "3h", 4.0),
    "key_max_overlap": ('"2d"', "3h", 4.0),
    "telemetry": ('"off"', "auto", "off"),
    "span_user_id": ('"plain"', "none", "plain"),
    "http_spans": ('"suppressed"', "nested", "suppressed"),
    "actor_baggage": ('"user.id"', "enduser.id", "a,b"),
    "compress": ('"none"', "gzip", "zstd"),
    "retain_days": ("2", "3.5", 4.0),
    "retain_bytes": ('"2GB"', "3GiB", 4_000_000),
    "low_space_warn": ('"2GB"', "3GiB", 4_000_000_000),
    "low_space_stop": ('"2MB"', "3MiB", 4_000_000),
    "reserve_bytes": ('"2KB"', "3KiB", 4_000),
    "ship": ('"off"', "background", "off"),
    "ship_batch_entries": ("2", "3", 4),
    "ship_batch_bytes": ('"2KB"', "3KiB", 4_000),
    "ship_batch_age": ("2", "3m", 4.0),
    "ship_deadline": ("2", "3m", 4.0),
    "ship_retry_most": ("2", "3m", 4.0),
    "ship_exit_wait": ("3", "3m", 4.0),
    "sink_filters": (
        '{a = {results = ["failure"]}}',
        '{"b": {"actions": ["x.*"], "phases": ["gap"]}}',
        {"c": Filter(risks=frozenset({"high"}))},
    ),
    "queue_entries": ("2", "3", 4),
    "queue_overflow": ('"drop_oldest"', "block", "drop_newest"),
    "queue_block": ("2", "3ms", 4.0),
    "klaviyo_key": ('"file file file file"', "env env env env env", "code code code code"),
    "klaviyo_metric": ('"In file"', "In env", "In code"),
    "klaviyo_profile": ('"file"', "id:01H", "code"),
    "klaviyo_share": ("2", "3", 4),
    "kafka_config": ('"/file.properties"', "/env.properties", '{"client.id": "code"}'),
    "kafka_topic": ('"file"', "env", "code"),
    "klaviyo_host": ('"https://file.example"', "http://127.0.0.1:8080", "https://code.example"),
}
READ_AS = {
    "dir": (Path("/a"), Path("/b")),
    "policy": (Path("/a"), Path("/b")),
    "pseudonym_key_file": (Path("/a"), Path("/b")),
    "forget_on_deletion": (True, False),
    "sinks": (("a",), ("b", "c")),
    "seal_interval": (2.0, 3.0),
    "seal_lines": (2, 3),
    "rotate_bytes": (2_000_000, 3 * 2**20),
    "rotate_age": (2 * 86400.0, 3 * 3600.0),
    "key_max_age": (2 * 86400.0, 3 * 3600.0),
    "key_max_overlap": (2 * 86400.0, 3 * 3600.0),
    "retain_days": (2.0, 3.5),
    "retain_bytes": (2_000_000_000, 3 * 2**30),
    "low_space_warn": (2_000_000_000, 3 * 2**30),
    "low_space_stop": (2_000_000, 3 * 2**20),
    "reserve_bytes": (2_000, 3 * 2**10),
    "ship_batch_entries": (2, 3),
    "ship_batch_bytes": (2_000, 3 * 2**10),
    "ship_batch_age": (2.0, 180.0),
    "ship_deadline": (2.0, 180.0),
    "ship_retry_most": (2.0, 180.0),
    "ship_exit_wait": (3.0, 180.0),
    "sink_filters": (
        {"a": Filter(results=frozenset({"failure"}))},
        {"b": Filter(actions=("x.*",), phases=frozenset({"gap"}))},
    ),
    "queue_entries": (2, 3),
    "queue_block": (2.0, 0.003),
    "klaviyo_share": (2, 3),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty project folder to be in, no variable set, nothing found above."""
    for variable in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(value):
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return Path(value) if isinstance(value, Path) else value


def refusal(**code) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**code)
    return str(caught.value)


# Precedence


@pytest.mark.parametrize("name", NAMES)
def test_code_wins_over_environment_over_file_over_default(name, folder, monkeypatch):
    in_file, in_env, in_code = SAMPLES[name]
    file_value, env_value = READ_AS.get(name, (in_file.strip('"'), in_env))
    default = getattr(load(), name)
    assert load().sources[name] == "default"

    (folder / "klaviyo-audit.toml").write_text(f"{name} = {in_file}\n")
    assert plain(getattr(load(), name)) == file_value != default
    assert load().sources[name] == f"{folder}/klaviyo-audit.toml, key {name}"

    variable = f"{ENV_PREFIX}{name.upper()}"
    monkeypatch.setenv(variable, in_env)
    assert plain(getattr(load(), name)) == env_value != file_value
    assert load().sources[name] == f"environment variable {variable}"

    given_by_code = Path(in_code) if name in PATHS else in_code
    assert plain(getattr(load(**{name: in_code}), name)) == given_by_code != env_value
    assert load(**{name: in_code}).sources[name] == "code"
    assert set(load().sources) == set(NAMES)


def test_none_from_code_is_not_given(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_USER_ID", "dana")
    assert load(user_id=None, dir=None).user_id == "dana"
    assert load(user_id=None, dir=None).sources["dir"] == "default"


def test_defaults_are_the_contract():
    settings = load()
    assert settings.dir == Path("klaviyo-audit")
    assert settings.sinks == ()
    assert settings.durability == "flush"
    assert settings.on_failure == "continue"
    assert settings.intents == "writes"
    assert settings.capture == "metadata"
    assert settings.host == socket.gethostname()
    assert settings.service is None
    assert (settings.seal_interval, settings.seal_lines) == (1.0, 10_000)
    assert (settings.rotate_bytes, settings.rotate_age) == (134_217_728, 86_400)
    assert (settings.low_space_warn, settings.low_space_stop) == (536_870_912, 67_108_864)
    assert settings.reserve_bytes == 65_536


def test_settings_cannot_be_changed_afterwards():
    settings = load()
    with pytest.raises(ValidationError):
        settings.durability = "async"
    with pytest.raises(TypeError):
        settings.sources["durability"] = "code"


# The file


def test_own_file_wins_over_pyproject_and_is_the_only_one_read(folder):
    (folder / "pyproject.toml").write_text(
        '[tool.klaviyo_audit]\ndurability = "async"\ncapture = "none"\n'
    )
    assert load().durability == "async"
    assert load().sources["capture"] == f"{folder}/pyproject.toml, key tool.klaviyo_audit.capture"
    (folder / "klaviyo-audit.toml").write_text('durability = "fsync"\n')
    assert (load().durability, load().capture) == ("fsync", "metadata")


def test_nearest_file_upwards_is_found(folder, monkeypatch):
    inner = folder / "src" / "shop"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    (folder / "klaviyo-audit.toml").write_text('user_id = "far"\n')
    assert load().user_id == "far"
    (folder / "src" / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    assert load().user_id == "far"
    (folder / "src" / "pyproject.toml").write_text("[tool.klaviyo_audit]\nuser_id = 'near'\n")
    assert load().user_id == "near"


@pytest.mark.parametrize("kind", ["folder", "file of a git worktree"])
def test_search_ends_at_the_folder_that_holds_git(folder, monkeypatch, kind):
    (folder / "klaviyo-audit.toml").write_text('user_id = "outside"\n')
    inner = folder / "repo" / "src"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert load().user_id == "outside"
    git = folder / "repo" / ".git"
    git.mkdir() if kind == "folder" else git.write_text("gitdir: elsewhere\n")
    assert load().user_id is None
    (folder / "repo" / "klaviyo-audit.toml").write_text('user_id = "inside"\n')
    assert load().user_id == "inside"


def test_relative_dir_starts_at_the_folder_of_its_file(folder, monkeypatch):
    (folder / "klaviyo-audit.toml").write_text('dir = "trail"\n')
    (folder / "src").mkdir()
    monkeypatch.chdir(folder / "src")
    assert load().dir == folder / "trail"
    assert load(dir="trail").dir == Path("trail")


def test_home_folder_in_dir(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/dana")
    assert load(dir="~/trail").dir == Path("/home/dana/trail")
    (folder / "klaviyo-audit.toml").write_text('dir = "~/trail"\n')
    assert load().dir == Path("/home/dana/trail")


def test_broken_pyproject_of_others_is_none_of_our_business(folder):
    (folder / "pyproject.toml").write_text("[tool.other\n")
    assert load().sources["dir"] == "default"


@pytest.mark.parametrize(
    "text", ["tool = 3 # klaviyo_audit\n", "[project]\nname='klaviyo_audit'\n"]
)
def test_pyproject_that_only_mentions_us_has_no_settings(folder, text):
    (folder / "pyproject.toml").write_text(text)
    assert load().sources["dir"] == "default"


def test_deleted_current_folder_has_no_settings_file(folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load().durability == "flush"


def test_file_that_others_put_into_a_shared_folder_is_passed_over(folder, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file to another user")
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / "klaviyo-audit.toml"
    planted.write_text('intents = "none"\n')
    (shared / "mine").mkdir()
    monkeypatch.chdir(shared / "mine")
    assert load().intents == "none"
    os.chown(planted, 12345, 12345)
    assert load().intents == "writes"
    # A link of theirs to a file of ours is theirs.
    planted.unlink()
    (folder / "other.toml").write_text('intents = "none"\n')
    planted.symlink_to(folder / "other.toml")
    assert load().intents == "none"
    os.lchown(planted, 12345, 12345)
    assert load().intents == "writes"


@contextlib.contextmanager
def without_privileges():
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_file_is_named(folder):
    file = folder / "klaviyo-audit.toml"
    file.write_text('durability = "fsync"\n')
    file.chmod(0)
    with without_privileges():
        message = refusal()
    assert message == (
        f"cannot read {file}: Permission denied; let the program read it, or start the program in "
        "another folder"
    )


def test_link_to_itself_is_named(folder):
    (folder / "klaviyo-audit.toml").symlink_to("klaviyo-audit.toml")
    assert refusal().startswith(f"cannot read {folder}/klaviyo-audit.toml: ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'durability = "fsync"\nuser_id = dana\n', "Invalid value (at line 2, column 11)"),
        (b'user_id = "d"\n\nservice = "caf\xe9"\n', "not UTF-8 (at line 3)"),
        (b"user_id = 'a'\nuser_id = 'b'\n", "Cannot overwrite a value (at line 2, column 14)"),
    ],
)
def test_malformed_file_is_named_with_its_line(folder, content, fault):
    (folder / "klaviyo-audit.toml").write_bytes(content)
    assert refusal() == f"cannot read {folder}/klaviyo-audit.toml: {fault}; correct the file"


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "seal_lines = " + "9" * 10_000])
def test_file_made_to_overwhelm_the_parser_is_refused(folder, content):
    (folder / "klaviyo-audit.toml").write_text(content)
    assert refusal().startswith(f"cannot read {folder}/klaviyo-audit.toml: ")


# Messages, whole, as a person reads them


def test_message_for_a_bad_value_in_code():
    assert refusal(durability="fsynk") == (
        "durability: 'fsynk' is not allowed (from code); allowed: flush, fsync or async; "
        "did you mean fsync?"
    )


def test_message_for_a_bad_value_in_the_environment(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_ROTATE_BYTES", "10,000 MB")
    assert refusal() == (
        "rotate_bytes: '10,000 MB' is not allowed (from environment variable "
        "KLAVIYO_AUDIT_ROTATE_BYTES); allowed: bytes, or a number with a unit: KB, MB, GB, TB, "
        "KiB, MiB, GiB or TiB; above 0"
    )


def test_message_for_a_bad_value_in_pyproject(folder):
    (folder / "pyproject.toml").write_text("[tool.klaviyo_audit]\nseal_lines = 0\n")
    assert refusal() == (
        f"seal_lines: 0 is not allowed (from {folder}/pyproject.toml, key "
        "tool.klaviyo_audit.seal_lines); allowed: a whole number above 0"
    )


def test_message_for_an_unknown_name_in_code():
    assert refusal(durablity="fsync") == (
        "durablity is not a setting (from code); did you mean durability?"
    )


def test_message_for_an_unknown_variable(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_ONFAILURE", "block")
    assert refusal() == (
        "KLAVIYO_AUDIT_ONFAILURE is not a setting (from environment variable "
        "KLAVIYO_AUDIT_ONFAILURE); did you mean KLAVIYO_AUDIT_ON_FAILURE?"
    )


def test_message_for_an_unknown_key_in_a_file(folder):
    (folder / "klaviyo-audit.toml").write_text("retain-days = 3\n")
    assert refusal() == (
        f"retain-days is not a setting (from {folder}/klaviyo-audit.toml, key retain-days); "
        "did you mean retain_days?"
    )


def test_name_cannot_forge_a_line_of_a_log(folder, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_A\nforged", "1")
    (folder / "klaviyo-audit.toml").write_text('"b\\nforged\\u001b[2J" = 1\n')
    first, second, third = refusal(**{"c\nforged": 1}).splitlines()[1:]
    assert (first + second + third).isprintable()


def test_name_in_another_case_is_unknown():
    assert refusal(Durability="fsync") == (
        "Durability is not a setting (from code); did you mean durability?"
    )


def test_message_for_a_name_like_none_of_them():
    assert refusal(zzz=1) == (
        "zzz is not a setting (from code); the settings are " + ", ".join(sorted(NAMES))
    )


def test_message_for_a_section_that_is_no_table(folder):
    (folder / "pyproject.toml").write_text("[tool]\nklaviyo_audit = true\n")
    assert refusal() == (
        f"tool.klaviyo_audit is not a table (from {folder}/pyproject.toml); write the settings "
        "under [tool.klaviyo_audit]"
    )


def test_message_for_watermarks_that_do_not_fit(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_LOW_SPACE_WARN", "32 MiB")
    assert refusal() == (
        "low_space_stop: 64 MiB (from default) is above low_space_warn: 32 MiB (from environment "
        "variable KLAVIYO_AUDIT_LOW_SPACE_WARN); allowed: at most low_space_warn, unless that is 0 "
        "(off)"
    )
    assert load(low_space_warn=0).low_space_stop == 64 * 2**20


def test_message_lists_every_wrong_setting(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_INTENTS", "write")
    assert refusal(signing_key="short", user=1) == (
        "3 settings are wrong:\n"
        "  intents: 'write' is not allowed (from environment variable KLAVIYO_AUDIT_INTENTS); "
        "allowed: writes, all or none; did you mean writes?\n"
        "  signing_key: the value (a secret, not shown) is not allowed (from code); allowed: a "
        "secret of 16 or more characters\n"
        "  user is not a setting (from code); did you mean user_id?"
    )


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not is_secret(Settings.model_fields[name])]
)
@pytest.mark.parametrize(
    "value",
    [
        API_KEY, f"a/{SITE_KEY.upper()}/b", f"log.example/{API_KEY}", WEB_TOKEN, USED,
        f"PRIVATE+KEY+log+1234abcd+{'A' * 44}", "-----BEGIN EC PRIVATE KEY-----",
    ],
    ids=["key", "in a path", "in a name", "web token", "used", "signing key", "pem"],
)  # fmt: skip
def test_a_credential_is_refused_where_none_belongs(folder, monkeypatch, name, value):
    monkeypatch.setattr(secrets, "CREDENTIALS", secrets.Credentials())
    secrets.CREDENTIALS.add(USED)
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", value)
    told = refusal()
    assert told.startswith(
        f"{name}: the value (not shown: it has a credential in it) is not allowed "
    )
    assert f"(from environment variable {ENV_PREFIX}{name.upper()}); allowed: " in told
    assert value not in told
    monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}")
    (folder / "klaviyo-audit.toml").write_text(f"{name} = {json.dumps(value)}\n")
    assert value not in refusal()
    (folder / "klaviyo-audit.toml").unlink()
    assert not list(folder.rglob("*pk_*"))


def test_a_credential_is_refused_within_a_list_and_with_what_else_is_wrong():
    told = refusal(
        sinks=["console", API_KEY], sink_filters={"a": {"actions": [SITE_KEY]}}, intents="x"
    )
    assert told.count("it has a credential in it") == 2
    assert told.startswith("3 settings are wrong:\n")
    assert "intents: 'x' is not allowed" in told


def test_names_that_only_speak_of_keys_are_allowed(folder):
    given = {
        "dir": "/srv/token=x/pk_shop/keys",
        "service": "pk_loyalty",
        "environment": "secret: prod",
    }
    assert {name: str(getattr(load(**given), name)) for name in given} == given


@pytest.mark.parametrize("name", ["_env_file", "_cli_parse_args", "_build_sources", "self"])
def test_options_of_the_library_are_no_settings(name):
    assert refusal(**{name: ["--dir=x"]}).startswith(f"{name} is not a setting (from code); ")


@pytest.mark.parametrize("suffix", ["dir", "Dir", "", "DIR_", "SINKS_2"])
def test_variable_that_is_nearly_one_of_ours_is_refused(monkeypatch, suffix):
    monkeypatch.setenv(f"{ENV_PREFIX}{suffix}", "x")
    assert f"(from environment variable {ENV_PREFIX}{suffix})" in refusal()


def test_variables_of_other_parts_are_left_alone(monkeypatch):
    for variable in OTHER_VARIABLES:
        monkeypatch.setenv(variable, "1")
    assert set(load().sources.values()) == {"default"}
    assert all(f"`{variable}`" in PAGE.read_text() for variable in OTHER_VARIABLES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sinks"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_variable_is_refused(monkeypatch, name, empty):
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", empty)
    assert refusal().startswith(f"{name}: ")


def test_empty_sinks_mean_none(folder, monkeypatch):
    (folder / "klaviyo-audit.toml").write_text('sinks = "klaviyo"\n')
    monkeypatch.setenv("KLAVIYO_AUDIT_SINKS", "")
    assert load().sinks == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotate_bytes", "1 MB per day"),
        ("rotate_bytes", "1.2.3"),
        ("rotate_bytes", "-1"),
        ("rotate_bytes", 0),
        ("rotate_bytes", True),
        ("rotate_bytes", 2**64),
        pytest.param("rotate_bytes", 10**5000, id="more digits than Python prints"),
        pytest.param("durability", 10**5000, id="more digits than Python prints, as a choice"),
        pytest.param("rotate_bytes", "9" * 5000, id="long text"),
        pytest.param("rotate_bytes", "9" * 400 + "MB", id="infinite size"),
        ("rotate_bytes", "8bit"),
        ("rotate_bytes", float("inf")),
        ("retain_bytes", "0"),
        ("low_space_warn", -1),
        ("seal_lines", True),
        ("seal_lines", 1.5),
        ("seal_lines", 2**63),
        ("seal_interval", 0),
        ("seal_interval", True),
        ("seal_interval", "1 fortnight"),
        ("seal_interval", float("nan")),
        ("rotate_age", "1000000d"),
        pytest.param("rotate_age", "9" * 400, id="infinite time"),
        ("retain_days", "nan"),
        ("retain_days", -1),
        ("retain_days", True),
        ("user_id", 7),
        ("user_id", "a\nb"),
        ("user_id", "a\x1b[2Jb"),
        ("user_id", "a\u2028b"),
        ("user_id", "a\udc80"),
        ("environment", ["production"]),
        ("origin", "two words"),
        ("origin", "a+b"),
        ("dir", ""),
        ("dir", "a\0b"),
        ("dir", "~nobody-of-this-name/x"),
        ("dir", 3),
        ("sinks", "a,,b"),
        ("sinks", "Console"),
        ("sinks", "a b"),
        ("sinks", ["a\n"]),
        ("sinks", {"a"}),
        ("sinks", ["a", "a"]),
        ("sinks", ["a", 1]),
        ("sinks", [["a"]]),
        ("sinks", 3),
        ("sink_filters", "no json"),
        ("sink_filters", "[]"),
        ("sink_filters", {"A": {"results": ["failure"]}}),
        ("sink_filters", {"a": {}}),
        ("sink_filters", {"a": {"results": []}}),
        ("sink_filters", {"a": {"results": ["failed"]}}),
        ("sink_filters", {"a": {"result": ["failure"]}}),
        ("sink_filters", {"a": {"actions": [""]}}),
        ("sink_filters", {"a": {"actions": [1]}}),
        ("sink_filters", {"a": ["failure"]}),
        ("capture", None.__class__),
        ("durability", "FSYNC"),
        ("pseudonym_key", "fifteen chars.."),
        ("pseudonym_key", 1234567890123456),
        ("pseudonym_key", "sixteen characters\udc80"),
    ],
)
def test_value_that_is_not_allowed_is_refused_on_one_line(name, value):
    message = refusal(**{name: value})
    assert re.match(rf"{name}: .+ is not allowed \(from code\); allowed: .", message)
    assert message.isprintable()
    assert len(message) < 400


# Secrets

hidden = st.text(st.characters(categories=["L", "N"]), min_size=8, max_size=40).map(
    lambda text: f"s3cr3t-{text}"
)
secret_like = st.text("abcdefABCDEF0123456789", min_size=34, max_size=34).map(
    lambda digits: f"pk_{digits}"
)


def everything_said(error: BaseException) -> str:
    said = "".join(traceback.format_exception(error)) + repr(error)
    while error is not None:
        said += str(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return said


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    secret=hidden,
    name=st.sampled_from([*SECRETS, "klaviyo_key", "signing_kye"]),
    shape=st.sampled_from(["text", "list", "table", "cut", "bytes", "wrapped", "surrogate"]),
)
def test_no_secret_in_any_refusal(secret, name, shape):
    value = {
        "text": secret,
        "list": [secret],
        "table": {"key": secret},
        "cut": secret[:14],
        "bytes": secret.encode() + b"\xff",
        "wrapped": SecretStr(secret),
        "surrogate": secret + "\udc80",
    }[shape]
    with pytest.raises(ConfigurationError) as caught:
        load(**{name: value}, durability="fsynk", low_space_warn=1)
    assert "s3cr3t" not in everything_said(caught.value)


@hypothesis_settings(max_examples=40, deadline=None)
@given(key=secret_like, name=st.sampled_from([*NAMES, "zzz"]))
def test_no_key_put_into_the_wrong_setting_in_any_refusal(key, name):
    with pytest.raises(ConfigurationError) as caught:
        load(**{name: [[key]]})
    assert key not in everything_said(caught.value)
    if name in ("dir", "user_id", "environment", "service", "host", "public_key", "origin"):
        return  # any text is allowed there
    with pytest.raises(ConfigurationError) as caught:
        load(**{"seal_lines": 0, name: key})
    assert key not in everything_said(caught.value)


@hypothesis_settings(max_examples=40, deadline=None)
@given(secret=hidden)
def test_no_secret_of_variable_or_file_in_any_refusal(secret):
    file = Path("klaviyo-audit.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLAVIYO_AUDIT_SIGNING_KEY", secret)
        patch.setenv("KLAVIYO_AUDIT_SIGNIN_KEY", secret)
        patch.setenv("KLAVIYO_AUDIT_PSEUDONYM_KEY", secret[:14])
        for text in (
            f"pseudonym_key = {secret}\n",
            f'pseudonym_key = "{secret}\n',
            f'pseudonym_key = "{secret}"\npseudonym_key = "{secret}"\n',
            f'klaviyo_key = "{secret}"\n[signing_key]\na = "{secret}"\n',
        ):
            file.write_text(text, encoding="utf-8")
            with pytest.raises(ConfigurationError) as caught:
                load()
            assert "s3cr3t" not in everything_said(caught.value)


@hypothesis_settings(max_examples=40, deadline=None)
@given(secret=hidden.map(lambda text: f"{text}-and-more"))
def test_no_secret_in_anything_settings_say_of_themselves(secret):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLAVIYO_AUDIT_SIGNING_KEY", secret)
        settings = load(pseudonym_key=secret)
    assert settings.signing_key.get_secret_value() == secret
    assert settings.pseudonym_key.get_secret_value() == secret
    said = [repr(settings), str(settings), settings.describe(), dict(settings.sources)]
    said += [settings.model_dump_json(), settings.digest(), f"{vars(settings)}"]
    assert "s3cr3t" not in repr(said)
    assert settings.describe()["signing_key"] == settings.describe()["pseudonym_key"] == MASK


def test_no_secret_of_a_variable_in_what_error_reporters_keep_of_the_frames(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_SIGNING_KEY", "s3cr3t-of-a-variable")
    with pytest.raises(ConfigurationError) as caught:
        load(durability="fsynk")
    kept = [
        repr(frame.f_locals)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if "tests" not in frame.f_code.co_filename
    ]
    assert len(kept) > 1
    assert "KLAVIYO_AUDIT_SIGNING_KEY" in "".join(kept)
    assert "s3cr3t" not in "".join(kept)


def test_secret_keeps_its_spaces(monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_SIGNING_KEY", " sixteen or more \n")
    assert load().signing_key.get_secret_value() == " sixteen or more \n"


# Round trips

names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
lines = (
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
    | st.just("Dana van den Berg")
    | st.just("'\"\\ ${HOME} # %s")
)
sizes = st.tuples(
    st.integers(1, 10**6), st.sampled_from([("", 1), ("B", 1), (" KB", 1000), ("MiB", 2**20)])
).map(lambda pair: (f"{pair[0]}{pair[1][0]}", pair[0] * pair[1][1]))
times = st.tuples(
    st.integers(1, 1000),
    st.sampled_from([("", 1), ("s", 1), ("m", 60), (" h", 3600), ("d", 86400)]),
).map(lambda pair: (f"{pair[0]}{pair[1][0]}", float(pair[0] * pair[1][1])))
VARIABLES = {
    "dir": st.from_regex(r"[a-zA-Z0-9_./ é-]*[a-z]", fullmatch=True).map(
        lambda text: (text, Path(text.strip()))
    ),
    "sinks": st.lists(names, unique=True, max_size=4).map(
        lambda found: (" , ".join(found), tuple(found))
    ),
    "user_id": lines.map(lambda text: (text, text)),
    "service": lines.map(lambda text: (f" {text}\t", text)),
    "pseudonym_key": st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=16, max_size=40
    ).map(lambda text: (text, text)),
    "rotate_bytes": sizes,
    "retain_bytes": sizes,
    "rotate_age": times,
    "key_max_age": times,
    "key_max_overlap": times,
    "seal_lines": st.integers(1, 2**63 - 1).map(lambda count: (str(count), count)),
    "retain_days": st.floats(0.001, 36500).map(lambda days: (repr(days), days)),
}


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(VARIABLES)).flatmap(lambda n: st.tuples(st.just(n), VARIABLES[n])))
def test_text_of_a_variable_becomes_the_value(drawn):
    name, (text, value) = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{ENV_PREFIX}{name.upper()}", text)
        settings = load()
    assert plain(getattr(settings, name)) == value
    again = json.loads(json.dumps(settings.describe()))
    if name not in SECRETS:
        assert plain(getattr(load(**{name: again[name]}), name)) == value


def test_folder_name_that_is_not_utf8_can_be_described_and_digested():
    settings = load(dir=os.fsdecode(b"/a\xff"))
    assert os.fsencode(settings.dir) == b"/a\xff"
    assert settings.describe()["dir"] == r"/a\xff"
    assert settings.digest()


def test_settings_can_be_copied_to_another_process():
    settings = load(durability="fsync", signing_key="k" * 16)
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.sources == settings.sources


@pytest.mark.parametrize("name", ["web\nforged", "", " "])
def test_odd_host_name_of_the_machine_is_left_out(monkeypatch, name):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert load().host is None


# The digest


def test_digest_is_the_same_in_another_process_and_from_another_source(monkeypatch):
    digest = load(sinks=["a", "b"], rotate_bytes=1000).digest()
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    monkeypatch.setenv("KLAVIYO_AUDIT_SINKS", "a,b")
    monkeypatch.setenv("KLAVIYO_AUDIT_ROTATE_BYTES", "1 KB")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    root = str(Path(__file__).parent.parent)
    code = "from klaviyo_audit.settings import load; print(load().digest())"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert child.stdout.strip() == digest


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SECRETS])
def test_digest_tells_every_setting(name):
    other = "fsync" if name == "durability" else SAMPLES[name][CODE]
    if other == getattr(load(), name):
        other = SAMPLES[name][ENV]
    assert load(**{name: other}).digest() != load().digest()


@pytest.mark.parametrize("name", SECRETS)
def test_digest_tells_only_whether_a_secret_is_set(name):
    assert load(**{name: "a" * 16}).digest() == load(**{name: "b" * 20}).digest()
    assert load(**{name: "a" * 16}).digest() != load().digest()


# The page


def rows() -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    return {row[0].strip("`"): row for row in cells if len(row) == 5 and row[0] != "setting"}


def test_page_and_model_agree():
    assert PAGE.read_text().endswith(f"\n\n{reference_table()}")
    assert tuple(rows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_row_of_the_page_is_true(name, monkeypatch):
    _, variable, default, allowed, meaning = rows()[name]
    before = load()
    assert meaning == Settings.model_fields[name].description
    if default.startswith("`"):
        monkeypatch.setenv(variable.strip("`"), default.strip("`"))
        assert getattr(load(), name) == getattr(before, name)
        assert load().sources[name] != "default"
    elif name == "host":
        assert default == "the machine's name"
    else:
        assert (default, getattr(before, name) or None) == ("not set", None)
    if ":" not in allowed and re.fullmatch(r"(`[a-z_]+`(, | or )?)+", allowed):
        for choice in re.findall(r"`([a-z_]+)`", allowed):
            read = getattr(load(**{name: choice}), name)
            assert (str(read).lower() if isinstance(read, bool) else read) == choice
    monkeypatch.setenv(variable.strip("`"), "\x01")
    assert refusal().endswith(f"allowed: {allowed.replace('`', '')}") or name == "sinks"


def test_examples_of_the_page_load(folder):
    own, shared = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "pyproject.toml").write_text(shared)
    assert load().durability == "fsync"
    (folder / "klaviyo-audit.toml").write_text(own)
    assert (load().on_failure, load().retain_days) == ("block", 400.0)
    assert "durability: 'fsynk'" in PAGE.read_text()
    assert (
        refusal(durability="fsynk").replace("code", "environment variable KLAVIYO_AUDIT_DURABILITY")
        in PAGE.read_text()
    )
