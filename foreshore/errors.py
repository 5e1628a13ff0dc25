"""The one tree of errors that Foreshore raises on purpose.

    ForeshoreError
    ├── UserError            the user's files or words are wrong: says where, what and how to mend it (exit 2)
    ├── NotEmulated          AWS has it, Foreshore does not: loud, in AWS's shape, with a row in docs/parity.md
    ├── HandlerFailed        the user's Lambda handler raised; carries the user's own traceback only
    ├── WireError
    │   ├── PeerError        the other side broke the protocol
    │   └── ProtocolError    we were about to break it ourselves
    ├── AwsError             an answer an AWS client understands: exact code, HTTP status and message
    └── Bug                  a state that can't be; exit 70

Anything else that escapes to the top is a bug of ours too, and ends the same way as `Bug`.
"""

from __future__ import annotations

from collections.abc import Mapping

EXIT_USER = 2
EXIT_BUG = 70


class ForeshoreError(Exception):
    """Base of all errors raised on purpose."""


class UserError(ForeshoreError):
    """A mistake in the user's configuration, recipe, SQL, template or command.

    `code` is a stable short name such as `port-taken`; `where` is a file, `file:line:column` or an address;
    `mend` is one sentence that says what to do.
    """

    def __init__(self, what: str, *, code: str = "user-error", where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  mend: {self.mend}" if self.mend else head


class AwsError(ForeshoreError):
    """An error in AWS's shape. `code` as AWS spells it, `status` the HTTP status, `extra` further JSON members."""

    def __init__(self, code: str, message: str, status: int = 400, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.extra = dict(extra or {})


class NotEmulated(AwsError):
    """AWS offers this and Foreshore does not (yet). HTTP 501 with code `NotEmulated`; never a silent success."""

    def __init__(self, what: str, hint: str = "") -> None:
        message = f"Foreshore does not emulate {what}." + (f" {hint}" if hint else "") + " See docs/parity.md."
        super().__init__("NotEmulated", message, 501)
        self.what = what


class HandlerFailed(ForeshoreError):
    """The user's handler raised or exited. `payload` is the JSON error object that AWS returns (bytes)."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload.decode("utf-8", "replace"))
        self.payload = payload


class WireError(ForeshoreError):
    """A protocol was broken; `reason` is the protocol's own numeric code where it has one."""

    def __init__(self, what: str, reason: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason


class PeerError(WireError):
    """The peer broke the protocol: answer or close as the specification says; nobody else is harmed."""


class ProtocolError(WireError):
    """Our own side asked for something the protocol forbids."""


class Bug(ForeshoreError):
    """A state the design says can't be reached."""
