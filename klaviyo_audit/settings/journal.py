"""Settings of recording: the journal, its writers and its sealer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, Field

# pydantic resolves the annotations when the class is made.
from klaviyo_audit.settings.values import (  # noqa: TC001
    Count,
    DaysOrNone,
    Duration,
    Folder,
    Origin,
    Secret,
    Sinks,
    Size,
    SizeOrNone,
    SizeOrOff,
    Text,
)


def host_name() -> str | None:
    """The machine's name, None where it has none that can be printed."""
    name = socket.gethostname().strip()
    return name if name and name.isprintable() else None


class JournalSettings(BaseModel):
    """The part of the settings that is about recording."""

    dir: Folder = Field(
        Path("klaviyo-audit"),
        description="Folder of the journal; a relative path starts at the current folder, or at "
        "the folder of the settings file it is in.",
    )
    sinks: Sinks = Field((), description="Where entries are delivered to, beside the journal.")
    durability: Literal["flush", "fsync", "async"] = Field(
        "flush",
        description="What a record survives: `flush` a killed process, `fsync` also power loss, "
        "`async` neither, with no input or output on the caller's thread.",
    )
    on_failure: Literal["continue", "block"] = Field(
        "continue",
        description="What happens to a call that cannot be recorded: `continue` lets it go on "
        "and counts the loss, `block` raises `AuditUnavailable` before anything is sent.",
    )
    intents: Literal["writes", "all", "none"] = Field(
        "writes", description="Which calls leave a line before they are sent."
    )
    user_id: Text = Field(
        None, description="Who acts where no `acting_as` says so; not set: service and OS user."
    )
    environment: Text = Field(
        None, description="Deployment the program runs in, for example `production`."
    )
    service: Text = Field(
        None, description="Name of the program; not set: the file name it was started as."
    )
    host: Text = Field(default_factory=host_name, description="Name of the machine in each entry.")
    signing_key: Secret = Field(None, description="Private Ed25519 key that signs the checkpoints.")
    public_key: Text = Field(
        None, description="Verifier key that checkpoints must be signed with; pins the signer."
    )
    origin: Origin = Field(
        None,
        description="Name of this log in its checkpoints (the origin of C2SP tlog-checkpoint).",
    )
    seal: Literal["background", "external", "off"] = Field(
        "background",
        description="Who seals the journal with signed checkpoints, rotates it and removes old "
        "files: a thread of the program (`background`), `klaviyo-audit seal --follow` beside it "
        "(`external`), or nobody (`off`).",
    )
    seal_interval: Duration = Field(
        1.0, description="Longest time between a line and the checkpoint that covers it."
    )
    seal_lines: Count = Field(
        10_000, description="Number of new lines after which a checkpoint is made earlier."
    )
    rotate_bytes: Size = Field(
        ByteSize(128 * 2**20), description="Size at which the journal file is rotated."
    )
    rotate_age: Duration = Field(86400.0, description="Age at which the journal file is rotated.")
    compress: Literal["zstd", "gzip", "none"] = Field(
        "zstd", description="How rotated files are compressed."
    )
    retain_days: DaysOrNone = Field(
        None,
        description="Age (since they were sealed) at which rotated files are removed, in days; not "
        "set: never.",
    )
    retain_bytes: SizeOrNone = Field(
        None, description="Total size above which the oldest files are removed; not set: never."
    )
    low_space_warn: SizeOrOff = Field(
        ByteSize(512 * 2**20), description="Free space below which a warning is given."
    )
    low_space_stop: SizeOrOff = Field(
        ByteSize(64 * 2**20),
        description="Free space below which calls go on unrecorded or are blocked, as "
        "`on_failure` says; at most `low_space_warn`.",
    )
    reserve_bytes: SizeOrOff = Field(
        ByteSize(64 * 2**10),
        description="Space held back so that the last lines still fit on a full disk.",
    )
