"""What an earlier release has left in its state directory is there after an update."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from tests.servers import WITHOUT_KERNELS, Service, serving

# Of a service of commit 22bd7af that was killed: a variable, a code job with a plot, a command, a
# job whose webhook could not be delivered, and one that was running. The key is not in there.
RECORDED = Path(__file__).parent / "recorded" / "state-22bd7af.tar.gz"


def ask(service: Service, path: str) -> Any:
    answer = service.request("GET", path)
    answer.raise_for_status()
    return answer.json()


def test_a_state_directory_of_22bd7af_opens(tmp_path: Path) -> None:
    with tarfile.open(RECORDED) as archive:
        archive.extractall(tmp_path, filter="data")
    with serving(tmp_path, **WITHOUT_KERNELS) as server:
        assert ask(server, "/env")["env_vars"]["RECORDED"] == "yes"
        running, failed, command, plot = ask(server, "/jobs")["jobs"]

        assert (plot["name"], plot["status"], plot["stdout"]) == ("plot", "completed", "out\n")
        shown = ask(server, f"/jobs/{plot['id']}/outputs")["rich_outputs"]
        assert any(str(output["data"]).startswith("iVBOR") for output in shown), shown
        page = ask(server, f"/jobs/{plot['id']}/logs")
        assert [message["data"] for message in page["messages"]] == ["out\n"]

        assert (command["status"], command["exit_code"]) == ("failed", 3)
        assert (command["stdout"], command["stderr"]) == ("line\n", "err\n")

        assert "ZeroDivisionError" in failed["stderr"]
        assert failed["webhook"]["attempts"] >= 1
        assert failed["webhook"]["url"] == "http://127.0.0.1:9/hook"

        # The service that ran it is no more.
        assert (running["status"], running["outcome"]) == ("failed", "cancelled")
