"""Fixtures of these tests."""

from __future__ import annotations

from tests.engines import engine, faulty_engine, module_engine

__all__ = ["engine", "faulty_engine", "module_engine"]
