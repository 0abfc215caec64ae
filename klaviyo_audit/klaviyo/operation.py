"""Auditing one call of one SDK operation."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from klaviyo_audit.calls import CallRecord
from klaviyo_audit.context import CURRENT, SUPPRESSED
from klaviyo_audit.klaviyo import targets
from klaviyo_audit.klaviyo.outcome import settle
from klaviyo_audit.klaviyo.tap import watch_attempt

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from klaviyo_audit.calls import Target
    from klaviyo_audit.recorder import Recorder


_REQUEST_PARAMETERS = ("method", "url", "headers", "body", "post_params", "_request_timeout")


def audited_operation(
    recorder: Recorder,
    function: Callable[..., Any],
    run: Callable[..., Any],
    called_as: str,
    before: Callable[[], None],
) -> Callable[..., Any]:
    """A function that runs an operation and leaves one outcome entry.

    Args:
        recorder: Where the entry goes.
        function: The operation's own bound method: it gives name, help and signature.
        run: What really runs: the SDK's retry layer around the method, or the method.
        called_as: The name the program calls it by.
        before: Called before it runs.
    """
    target: Target | None = None

    def operation(*args: Any, **kwargs: Any) -> Any:
        nonlocal target
        if SUPPRESSED.get():
            return run(*args, **kwargs)
        if target is None:
            try:
                target = targets.target_of(function, called_as)
            except Exception:
                # An SDK whose methods this version cannot read: the tap still sees the request.
                return run(*args, **kwargs)
        before()
        return run_audited(recorder, target, run, args, kwargs)

    return functools.update_wrapper(operation, function)


def run_audited(
    recorder: Recorder,
    target: Target,
    run: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run an SDK call from beginning to outcome. What it returns and raises is unchanged."""
    call = CallRecord(target, CURRENT.get(), is_sdk=True)
    token = CURRENT.set(call)
    live = recorder.begin(call)
    attached = None if live is None else live.attach()
    try:
        result = run(*args, **kwargs)
    except BaseException as error:
        CURRENT.reset(token)
        settle(recorder, call, error)
        if live is not None:
            live.finish(attached, call, error)
        raise
    CURRENT.reset(token)
    if call.frame is not None:
        _let_go(call.frame)
        call.frame = None
    settle(recorder, call, None)
    if live is not None:
        live.finish(attached, call, None)
    return result


def _let_go(frame: FrameType) -> None:
    """Take apart the cycle that an operation of the SDK has left.

    It holds its own frame in a local variable (to look at its arguments), so the collector has
    to find 28 objects a call: all it touched, and the frames around it. Measured: 20 us a call.
    """
    frame.clear()
    # Up to Python 3.12 the frame keeps a dictionary of its variables, which is brought up to
    # date, that is emptied, when it is asked for.
    len(frame.f_locals)


def observe_call_api(
    recorder: Recorder,
    send: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    depth: int = 1,
) -> Any:
    """What stands in for `ApiClient.call_api`: an attempt of the running call, or a call itself.

    Args:
        recorder: Where the entry of a call that nobody else audits goes.
        send: The SDK's ``call_api``, bound.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        depth: How many frames above this one the caller of ``call_api`` stands.
    """
    call: CallRecord | None = CURRENT.get()
    url = args[1] if len(args) > 1 else kwargs.get("url")
    if call is not None and call.is_sdk:
        if call.transport_url is None:
            call.frame = targets.operation_frame(depth)
            return watch_attempt(recorder, call, send, url, args, kwargs)
        if call.transport_url is url:
            # The same attempt, which the proxy's tap is watching already.
            return send(*args, **kwargs)
    if SUPPRESSED.get():
        return send(*args, **kwargs)
    method = args[0] if args else kwargs.get("method", "")
    target = targets.target_of_caller(targets.caller(depth), str(method), str(url))
    return run_audited(
        recorder,
        target,
        lambda *given, **named: watch_attempt(recorder, CURRENT.get(), send, url, given, named),
        args,
        kwargs,
    )


def observe_request(
    recorder: Recorder,
    send: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    depth: int = 1,
) -> Any:
    """What stands in for ``RESTClientObject.request``: below ``call_api``, or a call itself.

    Args:
        recorder: As for `observe_call_api`.
        send: The SDK's ``request``, bound.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        depth: As for `observe_call_api`.
    """
    call = CURRENT.get()
    url = args[1] if len(args) > 1 else kwargs.get("url")
    if call is not None and call.is_sdk and call.transport_url == url:
        return send(*args, **kwargs)  # what everything does: `call_api` is watching it
    if SUPPRESSED.get():
        return send(*args, **kwargs)
    given = dict(zip(_REQUEST_PARAMETERS, args, strict=False)) | kwargs

    def reordered(
        method: Any, url: Any, header_params: Any = None, body: Any = None, *rest: Any, **more: Any
    ) -> Any:
        return send(method, url, header_params, body, *rest, **more)

    first = tuple(given.pop(name, None) for name in _REQUEST_PARAMETERS[:4])
    return observe_call_api(recorder, reordered, first, given, depth)
