"""The rooms of the package: which may use which, and what importing them costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kernelagent

PACKAGE = Path(kernelagent.__file__).parent
# From the ground up: a room uses those before it and none behind it.
FLOORS = """
    errors outcome text logs observers concurrency workspace processes settings database
    leftovers isolation sandbox auth web
    jupyter sessions
    execution commands terminals files watch webhooks env jobs notebooks observability
    client agent app cli reference __main__
""".split()
# Loading them takes a third of a second; a control plane needs neither.
KERNEL_LIBRARIES = {"zmq", "jupyter_client", "jupyter_core"}


def room_of(path: Path) -> str:
    """The folder in which a module stands, or the module itself at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def arrows() -> set[tuple[str, str, str]]:
    """Each import of one room by another: the rooms, and the module that has it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                module = node.module or ""
                names = [f"{module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "kernelagent" and len(parts) > 1 and parts[1] != "__version__":
                    used, user = parts[1], room_of(path)
                    if used != user:
                        found.add((user, used, str(path.relative_to(PACKAGE))))
    return found


def test_each_room_has_its_floor() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(FLOORS)


def test_no_arrow_runs_up() -> None:
    found = arrows()
    assert len(found) > 100
    height = {room: floor for floor, room in enumerate(FLOORS)}
    assert sorted(arrow for arrow in found if height[arrow[1]] > height[arrow[0]]) == []


def loaded_by(*modules: str) -> set[str]:
    """The modules that a fresh interpreter has once it has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(
        subprocess.run(
            command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize("room", ["web", "auth", "processes", "workspace", "isolation", "client"])
def test_what_needs_no_kernel_loads_nothing_of_them(room: str) -> None:
    modules = [
        f"kernelagent.{room}.{path.stem}"
        for path in (PACKAGE / room).glob("*.py")
        if path.stem != "__init__"
    ]
    assert modules
    loaded = loaded_by(*modules)
    assert f"kernelagent.{room}" in loaded
    assert KERNEL_LIBRARIES.isdisjoint(loaded)
    assert not [name for name in loaded if name.startswith(("kernelagent.jupyter",))]


def test_the_client_loads_nothing_of_the_service() -> None:
    loaded = loaded_by("kernelagent.client")
    rooms = {name.split(".")[1] for name in loaded if name.startswith("kernelagent.")}
    assert rooms == {"client", "errors"}
    assert KERNEL_LIBRARIES.isdisjoint(loaded)
    assert {"fastapi", "starlette", "pydantic"}.isdisjoint(loaded)


def test_nothing_below_the_routes_knows_the_framework() -> None:
    allowed = {"app.py", "reference.py", "cli/server.py"}
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastapi")
    }
    assert "execution/routes.py" in users
    below = {
        user
        for user in users - allowed
        if not user.startswith("web/") and not user.endswith("routes.py")
    }
    assert below == set()
