"""A typed client of the service in two forms: with and without asyncio."""

from kernelagent.client.asynchronous import AsyncClient
from kernelagent.client.shared import LogStream, Message, ServiceError, ServiceUnreachable
from kernelagent.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "LogStream",
    "Message",
    "ServiceError",
    "ServiceUnreachable",
]
