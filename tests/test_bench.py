"""The benchmark goes on when what it compares with fails."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.findings import OURS, Findings
from bench.report import print_findings
from bench.samples import Peer, PeerFailed, interleave, of_peer
from bench.scenarios.variants import NAIVE


def failing() -> float:
    raise OSError("no such program")


def test_a_peer_that_fails_is_a_row_and_no_target() -> None:
    samples = interleave({OURS: lambda: 1.0, NAIVE: of_peer(failing)}, 3)
    findings = Findings()
    findings.add("case", "ms", samples)
    findings.expect_ratio("case", NAIVE, 3.0)
    ours, naive = findings.rows
    assert (ours.count, ours.ratio) == (3, 1.0)
    assert (naive.count, naive.failure) == (0, "OSError: no such program")
    assert findings.targets == []
    out = io.StringIO()
    print_findings(Console(file=out, width=124), "title", findings)
    assert f"{NAIVE} failed: OSError: no such program" in out.getvalue()


def test_what_fails_in_ours_ends_it() -> None:
    with pytest.raises(OSError, match="no such program"):
        interleave({OURS: failing}, 3)


def test_a_peer_is_started_once() -> None:
    starts = []

    def start() -> str:
        starts.append(1)
        raise OSError("no such program")

    peer = Peer(start)
    for _ in range(2):
        with pytest.raises(PeerFailed, match="no such program"):
            peer.get()
    assert starts == [1]
