"""The checks of ``klaviyo-audit check``, one a function."""
