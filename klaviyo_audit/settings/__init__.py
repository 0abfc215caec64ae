"""The settings of one process: the typed model that code, environment or a TOML file fill.

Importing this package costs tens of milliseconds (pydantic-settings); import it when first used.
"""

from klaviyo_audit.settings.model import MASK, Settings, load
from klaviyo_audit.settings.reference import reference_table
from klaviyo_audit.settings.sources import (
    ENV_PREFIX,
    FILE_NAME,
    OTHER_VARIABLES,
    PROJECT_FILE_NAME,
)

__all__ = [
    "ENV_PREFIX",
    "FILE_NAME",
    "MASK",
    "OTHER_VARIABLES",
    "PROJECT_FILE_NAME",
    "Settings",
    "load",
    "reference_table",
]
