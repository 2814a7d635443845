"""A stock kernel without any server: what jupyter_client makes of it by itself."""

from __future__ import annotations

import subprocess
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from bench.clients import Shown, shown

STOCK = "stock ipykernel"

_TIMEOUT = 60


class StockKernel:
    """A stock ipykernel process that is ready, and its client; a `Runner`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_TIMEOUT)

    @property
    def pid(self) -> int:
        provisioner: Any = self._manager.provisioner
        return int(provisioner.pid)

    def execute(self, code: str) -> Shown:
        msg_id = self._client.execute(code)
        outputs: list[dict[str, Any]] = []
        while True:
            message = self._client.get_iopub_msg(timeout=_TIMEOUT)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"output_type": kind, **content})
        self._client.get_shell_msg(timeout=_TIMEOUT)
        return shown(outputs)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
