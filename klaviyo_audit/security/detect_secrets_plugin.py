"""A plugin of detect-secrets that knows Klaviyo's credentials.

``klaviyo-audit scan --plugin-path`` prints where this file is; give that to detect-secrets::

    detect-secrets scan -p "$(klaviyo-audit scan --plugin-path)" > .secrets.baseline
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from detect_secrets.plugins.base import RegexBasedDetector

from klaviyo_audit.security import patterns

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class KlaviyoDetector(RegexBasedDetector):  # type: ignore[misc]
    """Finds private keys by their form, other credentials by a name that tells and "klaviyo".

    detect-secrets looks at single lines, so the word has to be on the same one.
    """

    secret_type = "Klaviyo Credential"  # noqa: S105  (a name)
    denylist: ClassVar[Iterable[re.Pattern[str]]] = (
        re.compile(patterns.KEY),
        re.compile(patterns.ASSIGNMENT),
        re.compile(patterns.BEARER),
    )

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """Give the credentials in a line."""
        key, *told = self.denylist
        for match in key.finditer(string):
            if not patterns.is_made_up_key(match[0]):
                yield match[0]
        if patterns.CONTEXT.decode() not in string.lower():
            return
        for expression in told:
            for match in expression.finditer(string):
                value = match["quoted"]
                if not key.search(value) and not patterns.is_made_up_value(value):
                    yield value
