"""The chart data that we make, read by the published E2B client."""

from __future__ import annotations

from typing import Any

import pytest
from e2b_code_interpreter.charts import _deserialize_chart

from tests.servers import Server

_DRAWINGS = {
    "LineChart": "plt.plot([1, 3, 2]); plt.xlabel('Time (s)')",
    "ScatterChart": "plt.scatter([1, 2], [3, float('nan')])",
    "BarChart": "plt.bar(['a', 'b'], [3, 3])",
    "PieChart": "plt.pie([90, 10], labels=['x', 'y'])",
    "BoxAndWhiskerChart": "plt.boxplot([[1, 2, 3, 10], [2, 3, 4]])",
    "SuperChart": "figure, (left, right) = plt.subplots(1, 2); left.plot([1]); right.bar([1], [2])",
}


@pytest.mark.parametrize("kind", _DRAWINGS)
def test_each_kind_of_chart_is_read_as_itself(server: Server, kind: str) -> None:
    code = f"import matplotlib.pyplot as plt\n{_DRAWINGS[kind]}\nplt.show()"
    answer = server.request("POST", "/execute", json={"code": code}).json()
    chart: Any = _deserialize_chart(answer["chart"])
    assert type(chart).__name__ == kind
    assert chart.elements
