"""The synchronous client is the asynchronous one without its awaiting."""

from __future__ import annotations

import inspect

from kernelagent.client import AsyncClient, Client
from scripts.make_sync_client import TARGET, synchronous


def test_the_synchronous_client_is_up_to_date() -> None:
    assert TARGET.read_text() == synchronous(), "run `make docs`"


def test_both_clients_have_the_same_methods() -> None:
    ours, theirs = (
        {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("__")
        }
        for client in (AsyncClient, Client)
    )
    ours["close"] = ours.pop("aclose")
    assert ours == theirs
