"""The settings of the privacy gate."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from klaviyo_audit.settings.values import (  # noqa: TC001  (pydantic reads the annotations)
    FileOrNone,
    Flag,
    Region,
    Secret,
    Text,
)


class PrivacySettings(BaseModel):
    """How much the trail keeps, and what stands in it for a person."""

    capture: Literal["none", "metadata", "request", "request_response"] = Field(
        "metadata",
        description="How much of a call is kept, after redaction: `none` its bare facts, "
        "`metadata` also what the caller adds, `request` also its arguments, `request_response` "
        "also the response.",
    )
    policy: FileOrNone = Field(
        None,
        description="TOML file with rules that say for single operations, scopes, risks, "
        "environments or users what `capture` says for all.",
    )
    pseudonym_key: Secret = Field(
        None,
        description="Key of the HMAC that turns personal data into pseudonyms; several as "
        "`k2:<newest>,k1:<older>`. Without any, personal data is masked.",
    )
    pseudonym_key_file: FileOrNone = Field(
        None, description="File with what `pseudonym_key` would say; nobody else may read it."
    )
    pseudonym_key_command: Text = Field(
        None, description="Command that prints what `pseudonym_key` would say; no shell runs."
    )
    phone_region: Region = Field(
        None,
        description="Country whose national phone numbers get pseudonyms too; needs the extra "
        "`phone`.",
    )
    subject_keys: Literal["off", "on"] = Field(
        "off",
        description="Whether each person has a key of their own, in `subjects.sqlite` in the "
        "journal's folder, which `klaviyo-audit forget` destroys.",
    )
    subject_master_key: Secret = Field(
        None, description="Key that the subjects' keys are encrypted with; keep it elsewhere."
    )
    forget_on_deletion: Flag = Field(
        default=False,
        description="Whether a successful `request_profile_deletion` destroys the keys of the "
        "person it names.",
    )
    actor_ids: Literal["keep", "pseudonym"] = Field(
        "keep",
        description="Whether `user_id` and `on_behalf_of` are kept as given or become pseudonyms.",
    )
