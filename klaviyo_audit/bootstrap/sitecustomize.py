"""Audits the Klaviyo calls of a Python program that `klaviyo-audit run` has started.

The folder of this file is on PYTHONPATH there, so Python runs it at its start, in child processes
too. It needs nothing but the standard library, imports nothing of it that is not loaded already,
and waits: a program that never imports Klaviyo's SDK pays next to nothing and leaves no trace.
"""

from __future__ import annotations

import os
import sys

_RUN = "KLAVIYO_AUDIT_RUN"  # as in klaviyo_audit/launch.py, which cannot be imported here
_SDK = "openapi_client"


class _Watch:
    """A finder that finds nothing itself, and sees to it that the SDK is audited when found."""

    def find_spec(self, name, path=None, target=None):
        if name != _SDK:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """The loader of the SDK, which goes on to have it audited."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _audit_all()

    def __getattr__(self, name):
        return getattr(self._loader, name)


def _audit_all():
    try:
        import klaviyo_audit
        from klaviyo_audit.klaviyo.catalog import is_klaviyo_sdk

        # Another vendor's package can have that name.
        if is_klaviyo_sdk():
            klaviyo_audit.instrument()
    except Exception as error:
        missing = isinstance(error, ImportError) and (error.name or "").startswith("klaviyo_audit")
        why = (
            f"klaviyo-audit is not installed for {sys.executable}; install it there"
            if missing
            else f"{error}"
        )
        if os.environ.get(_RUN, "").endswith(":block"):
            message = f"klaviyo-audit: Klaviyo cannot be called without a record: {why}"
            raise ImportError(message) from None
        print(f"klaviyo-audit: calls to Klaviyo are NOT recorded: {why}", file=sys.stderr)


def _load_the_other_one():
    """Run the sitecustomize that this one has hidden, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    sys.path_importer_cache.pop(here, None)
    mine = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if mine is not None:
            sys.modules.setdefault("sitecustomize", mine)


if os.environ.get(_RUN):
    sys.meta_path.insert(0, _Watch())
_load_the_other_one()
