"""The error tree: each error has a stable code, a status, a sentence and details."""

from __future__ import annotations

from typing import Any, ClassVar


class KernelagentError(Exception):
    """The root: everything this service raises on purpose."""


class ConfigurationError(KernelagentError):
    """The service cannot start as it is configured; the sentence says what to change."""


class ApiError(KernelagentError):
    """An error that a caller sees; `responses.py` turns it into an answer.

    A deterministic failure is never 429 or 5xx: published clients send those again, and user
    code would run twice.
    """

    status: int = 400
    code: ClassVar[str] = "INVALID_REQUEST"

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}
        if status is not None:
            self.status = status


class InvalidRequest(ApiError):
    """A field has a value that cannot be used."""


class InvalidJson(ApiError):
    """The body is not a JSON object."""

    code = "INVALID_JSON"


class MissingParameter(ApiError):
    """A required field is absent."""

    code = "MISSING_PARAMETER"


class DirectoryNotFound(ApiError):
    """The working directory is none; with 404: the directory to be read does not exist."""

    code = "DIRECTORY_NOT_FOUND"


class FileNotFound(ApiError):
    """A file that the request names does not exist or cannot be read."""

    status = 404
    code = "FILE_NOT_FOUND"


class InvalidPath(ApiError):
    """The path cannot be used, or names a thing of the wrong kind."""

    code = "INVALID_PATH"


class PathNotAllowed(ApiError):
    """The path is not beneath the directories that clients may use."""

    status = 403
    code = "PATH_NOT_ALLOWED"


class PatternNotSupported(InvalidRequest):
    """A search's pattern has look-around, back-references or the like, which RE2 has not."""

    code = "PATTERN_NOT_SUPPORTED"


class WatchLimit(ApiError):
    """As many watches as the settings or the system allow; or too large a tree."""

    status = 409
    code = "WATCH_LIMIT"


class PermissionDenied(ApiError):
    """The system does not let the service do this to the file."""

    status = 403
    code = "PERMISSION_DENIED"


class FileAlreadyExists(ApiError):
    """Something has this path already, and was not to be replaced."""

    status = 409
    code = "FILE_ALREADY_EXISTS"


class DirectoryNotEmpty(ApiError):
    """The directory has contents and is neither removed nor replaced."""

    status = 409
    code = "DIRECTORY_NOT_EMPTY"


class FileLimit(ApiError):
    """As many operations on files are on their way as the settings allow."""

    status = 409
    code = "FILE_LIMIT"


class FileOperationFailed(ApiError):
    """The system refused an operation on a file; the sentence says why."""

    code = "FILE_OPERATION_FAILED"


class DiskFull(ApiError):
    """The disk or the quota is full; nothing has changed."""

    status = 409
    code = "DISK_FULL"


class ArchiveRefused(ApiError):
    """The archive is broken, or holds what is not unpacked; nothing was."""

    code = "ARCHIVE_REFUSED"


class RangeNotSatisfiable(ApiError):
    """The file ends before the range that is asked for."""

    status = 416
    code = "RANGE_NOT_SATISFIABLE"


class WebhookRefused(ApiError):
    """The callback's address or headers cannot be used; the sentence says why."""

    code = "WEBHOOK_REFUSED"


class LanguageNotAvailable(ApiError):
    """The language is known, but its kernel is not installed."""

    code = "LANGUAGE_NOT_AVAILABLE"


class KernelStartFailed(ApiError):
    """A kernel could not be started; details say what it printed."""

    code = "KERNEL_START_FAILED"


class TerminalStartFailed(ApiError):
    """The terminal's program could not be started; the sentence says why."""

    code = "TERMINAL_START_FAILED"


class AuthenticationRequired(ApiError):
    """No token was sent."""

    status = 401
    code = "AUTHENTICATION_REQUIRED"


class TokenInvalid(ApiError):
    """The token's signature, form or claims are wrong."""

    status = 401
    code = "TOKEN_INVALID"


class TokenExpired(ApiError):
    """The token was good once."""

    status = 401
    code = "TOKEN_EXPIRED"


class AccessDenied(ApiError):
    """A good token, but for another sandbox or without the scope of this route."""

    status = 403
    code = "ACCESS_DENIED"


class RouteNotFound(ApiError):
    """No route has this path."""

    status = 404
    code = "ROUTE_NOT_FOUND"


class SessionNotFound(ApiError):
    """No session has this id."""

    status = 404
    code = "SESSION_NOT_FOUND"


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class CheckpointNotFound(ApiError):
    """The session has no checkpoint with this id, or has it no longer."""

    status = 404
    code = "CHECKPOINT_NOT_FOUND"


class ProcessNotFound(ApiError):
    """No job has this id, or it was removed."""

    status = 404
    code = "PROCESS_NOT_FOUND"


class TerminalNotFound(ApiError):
    """No terminal has this id, or it was removed."""

    status = 404
    code = "TERMINAL_NOT_FOUND"


class JobLimit(ApiError):
    """As many jobs wait as the settings allow."""

    status = 409
    code = "JOB_LIMIT"


class CommandLimit(ApiError):
    """As many commands run as the settings allow."""

    status = 409
    code = "COMMAND_LIMIT"


class TerminalLimit(ApiError):
    """As many terminals run as the settings allow."""

    status = 409
    code = "TERMINAL_LIMIT"


class TerminalExists(ApiError):
    """A terminal with the wished id is there already."""

    status = 409
    code = "TERMINAL_EXISTS"


class TerminalBusy(ApiError):
    """Another client is at the terminal, and this one did not want to take it over."""

    status = 409
    code = "TERMINAL_BUSY"


class TerminalInputFull(ApiError):
    """The terminal's program does not read; details say how much of the input was not taken."""

    status = 409
    code = "TERMINAL_INPUT_FULL"


class IdempotencyConflict(ApiError):
    """The Idempotency-Key was used for another request."""

    status = 409
    code = "IDEMPOTENCY_CONFLICT"


class SessionExists(ApiError):
    """A session with the wished id is there already."""

    status = 409
    code = "SESSION_EXISTS"


class SessionBusy(ApiError):
    """A question to the kernel was not answered in time because a run occupies it."""

    status = 409
    code = "SESSION_BUSY"


class SessionClosed(ApiError):
    """The session was closed while the run waited."""

    status = 409
    code = "SESSION_CLOSED"


class SessionLimit(ApiError):
    """As many sessions or kernels exist as the settings allow."""

    status = 409
    code = "SESSION_LIMIT"


class BranchRefused(ApiError):
    """The session's kernel cannot be copied as a whole; the sentence says what would be lost."""

    status = 409
    code = "BRANCH_REFUSED"


class CheckpointLimit(ApiError):
    """As many checkpoints exist, or as much memory is kept by them, as the settings allow."""

    status = 409
    code = "CHECKPOINT_LIMIT"


class QueueFull(ApiError):
    """As many runs wait in the session as the settings allow."""

    status = 409
    code = "QUEUE_FULL"


class QueueTimeout(ApiError):
    """The run's turn did not come in time; it was not run."""

    status = 409
    code = "QUEUE_TIMEOUT"


class NoInputAwaited(ApiError):
    """An input was sent to a run that asks for none."""

    status = 409
    code = "NO_INPUT_AWAITED"


class ServiceClosing(ApiError):
    """The service shuts down and takes no new runs."""

    status = 409
    code = "SERVICE_CLOSING"


class NotReady(ApiError):
    """The service lives but is not warm yet; only the readiness probe is answered so."""

    # What orchestrators want to see; no client asks with code in its hands.
    status = 503
    code = "NOT_READY"


class BodyTooLarge(ApiError):
    """The request body exceeds the limit."""

    status = 413
    code = "BODY_TOO_LARGE"


class InternalError(ApiError):
    """A fault of ours; the log has the trace under the request id."""

    status = 500
    code = "INTERNAL_ERROR"
