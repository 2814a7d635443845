"""The server of these tests."""

from __future__ import annotations

from tests.files.conftest import server

__all__ = ["server"]
