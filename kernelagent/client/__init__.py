"""A typed client of the service, for the command line and for tests."""

from kernelagent.client.asynchronous import (
    LogStream,
    Message,
    ServiceClient,
    ServiceError,
    ServiceUnreachable,
    is_loopback,
)

__all__ = [
    "LogStream",
    "Message",
    "ServiceClient",
    "ServiceError",
    "ServiceUnreachable",
    "is_loopback",
]
