"""Engines for each kind of Python kernel, of which each module has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from kernelagent.sessions.engine import Engine
from kernelagent.settings import Settings
from tests.kernels.python.forking import FORKED, engine_of
from tests.kernels.python.protocol import VARIANTS, Client, Host, Variant, connected, hosting


@pytest.fixture(scope="module")
def preload() -> tuple[str, ...] | None:
    """What the shared fork servers import ahead; a module may want what is usual, None."""
    return ()


@pytest.fixture(scope="module")
async def lean(module_settings: Settings, preload: tuple[str, ...] | None) -> AsyncIterator[Engine]:
    async with engine_of(module_settings, "lean", preload=preload) as engine:
        yield engine


@pytest.fixture(scope="module")
async def stock(
    module_settings: Settings, preload: tuple[str, ...] | None
) -> AsyncIterator[Engine]:
    async with engine_of(module_settings, "stock", preload=preload) as engine:
        yield engine


@pytest.fixture(scope="module")
async def plain(
    module_settings: Settings, preload: tuple[str, ...] | None
) -> AsyncIterator[Engine]:
    async with engine_of(module_settings, "plain", preload=preload) as engine:
        yield engine


@pytest.fixture(params=FORKED)
def forked(request: pytest.FixtureRequest) -> Engine:
    """The shared engines that fork; no test may damage them."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=[*FORKED, "plain"])
def any_engine(request: pytest.FixtureRequest) -> Engine:
    """The shared engines; no test may damage them."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture
def preloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module that `kernel_env=("PYTHONPATH",)` lets be found, and gives its name."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def write(code: str) -> str:
        name = f"preload_of_test_{sum(1 for _ in folder.iterdir())}"
        (folder / f"{name}.py").write_text(code)
        return name

    return write


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each kind of kernel in turn."""
    kind: Variant = request.param
    return kind


@pytest.fixture(scope="module")
def host(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An engine for all tests of one kind of kernel."""
    with hosting(tmp_path_factory.mktemp("engine"), variant, preload=()) as running:
        yield running


@pytest.fixture
def client(host: Host, variant: Variant) -> Iterator[Client]:
    """A client of the shared kernel, which the test must leave ready for the next one."""
    with connected(host.shared(), careful=not variant.lean) as connection:
        try:
            yield connection
            assert connection.run("pass").reply.content["status"] == "ok"
        except BaseException:
            host.give_up()
            raise


@pytest.fixture(scope="module", params=[True, False], ids=["forked", "plain"])
def lean_host(
    request: pytest.FixtureRequest,
    preload: tuple[str, ...] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Host]:
    """An engine on lean kernels, forked and plain ones in turn."""
    variant = Variant(lean=True, forked=request.param)
    with hosting(tmp_path_factory.mktemp("engine"), variant, preload=preload) as running:
        yield running


@pytest.fixture
def lean_client(lean_host: Host) -> Iterator[Client]:
    """A client of the shared lean kernel, which must be as it was afterwards."""
    with connected(lean_host.shared()) as connection:
        connection.run("state = 42")
        yield connection
        cell = connection.run("print(state)")
        assert (cell.text(), cell.outputs) == ("42\n", ["stdout: 42\n"])
        assert connection.silent_on("shell")
