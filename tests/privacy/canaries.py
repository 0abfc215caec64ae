"""Planted secrets and personal data in many spellings, each with a mark that no output may hold."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from urllib.parse import quote

from hypothesis import strategies as st

# Every canary holds one of these, whatever is done to it.
MARK = re.compile(
    r"zq(?:mail|name|addr|tokn|secr|extn)[0-9a-f]{6}|5ec12e7f[0-9a-f]{6}|1?5009[0-9]{7}"
)

# Ids, digests and pseudonyms are random: of 20,000 calls' some hold what looks like a number.
_RANDOM = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<=:)[0-9a-f]{32}(?![0-9a-f])"
    r"|(?<=\")[0-9a-f]{16}(?=\")|(?<=:)[0-9a-f]{16}(?=\])"
)

_hex = st.integers(0, 0xFFFFFF).map("{:06x}".format)


def _wide(text: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


emails = st.builds(
    lambda mark, form: form(f"zqmail{mark}@mail.example.com"),
    _hex,
    st.sampled_from(
        [
            str,
            str.upper,
            str.title,
            lambda text: f"Dana <{text}>",
            lambda text: quote(text, safe=""),
            lambda text: quote(quote(text, safe=""), safe=""),
            lambda text: text.replace("@", "+tag@"),
            lambda text: text.replace("@", "\\u0040"),
            lambda text: text.replace("@", "&#64;"),
            lambda text: text.replace("@", "=40"),
            lambda text: text.replace("mail.example", "bücher"),
            lambda text: f'"{text.partition("@")[0]} x"@example.com',
            _wide,
            html.escape,
            lambda text: f'equals(email,"{text}")',
            lambda text: quote(f'any(email,["{text}","b@example.com"])'),
            lambda text: json.dumps({"email": text}),
            lambda text: json.dumps(json.dumps({"profile": {"email": text}})),
            lambda text: f"1 validation error for P\nemail\n  bad [input_value='{text}']",
            lambda text: f"https://shop.example/u?e={quote(text)}&x=1",
            lambda text: "x" * 980 + " " + text,
        ]
    ),
)
phones = st.builds(
    lambda number, form: form(f"5009{number:07d}"),
    st.integers(0, 9_999_999),
    st.sampled_from(
        [
            lambda digits: f"+1{digits}"[:12],
            lambda digits: f"%2B1{digits}",
            lambda digits: f"+1 ({digits[:3]}) {digits[3:]}",
            lambda digits: f"001{digits}",
            lambda digits: f"+1{digits} and more",
            lambda digits: json.dumps({"phone_number": f"+1{digits}"}),
            lambda digits: f"phone: {digits}",
            lambda digits: f'equals(phone_number,"+1{digits}")',
        ]
    ),
)
_keys = st.builds(lambda mark: "5ec12e7f" + mark + "0123456789abcdef0123", _hex)
secrets = st.one_of(
    st.builds(
        lambda key, form: form(key),
        _keys,
        st.sampled_from(
            [
                lambda key: f"pk_{key}",
                lambda key: f"pk_AbC123_{key}",
                lambda key: f"PK_{key.upper()}",
                lambda key: f"pk%5F{key}",
                lambda key: f"Klaviyo-API-Key pk_{key}",
                lambda key: f"(pk_{key})",
            ]
        ),
    ),
    st.builds(
        lambda mark, form: form(f"zqtokn{mark}0a1b2c3d4e"),
        _hex,
        st.sampled_from(
            [
                "Bearer {}".format,
                "authorization=Bearer%20{}".format,
                '{{"access_token": "{}"}}'.format,
                '{{\\"refresh_token\\": \\"{}\\"}}'.format,
                "api_key={}&x=1".format,
                "the token is {}".format,
                "eyJhbGciOiJIUzI1NiJ9.{}.sig".format,
            ]
        ),
    ),
    st.builds('"secret_key":"zqsecr{} two words"'.format, _hex),
)
names = st.builds("Zqname{} Müller".format, _hex)
addresses = st.builds("12 Zqaddr{} Street".format, _hex)
external_ids = st.builds("zqextn{}".format, _hex)

found_in_text = st.one_of(emails, phones, secrets)
"""What is recognised in any text."""
anything = st.one_of(found_in_text, names, addresses)
"""What may stand in bodies, answers and texts of exceptions, none of which is kept."""


def leaks(output: str | bytes) -> list[str]:
    """The canaries in an output, in any case, width or with separators in numbers."""
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    text = _RANDOM.sub("", text)
    found = MARK.findall(text.lower())
    if not text.isascii() or "\\u" in text:
        plain = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
        found += MARK.findall(unicodedata.normalize("NFKC", plain).lower())
    found += re.findall(r"\(?500\)?[ -]?9\d{2}[ -]?\d{4}", text)
    return sorted(set(found))
