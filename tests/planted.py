"""Secrets and personal data that tests plant, none of them real; no output may hold one."""

# Made up in the two formats of Klaviyo's private keys.
API_KEY = "pk_" + "5ec12e7f00" * 3 + "5ec1"
SITE_KEY = "pk_AbC123_" + "5ec12e7f01" * 3 + "5ec1"
OTHER_KEY = "pk_" + "5ec12e7f02" * 3 + "5ec1"
OAUTH_TOKEN = "-".join(("planted", "oauth", "token", "0a1b2c3d" * 3))
WEBHOOK_SECRET = "planted-webhook-secret-value"
EMAIL = "planted.person@example.com"
PHONE = "+15005550006"

SECRETS = (API_KEY, SITE_KEY, OTHER_KEY, OAUTH_TOKEN, WEBHOOK_SECRET)
PERSONAL = (EMAIL, EMAIL.replace("@", "%40"), PHONE, "%2B15005550006")
ALL = SECRETS + PERSONAL


def found_in(text: str) -> list[str]:
    """The planted values that stand in a text, in any case, as the trail must not have them."""
    lowered = text.lower()
    return [value for value in ALL if value.lower() in lowered]
