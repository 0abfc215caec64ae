"""The only folder that knows Klaviyo's SDK."""
