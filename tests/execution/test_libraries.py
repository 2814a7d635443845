"""What the figures and objects of well-known libraries come to."""

from __future__ import annotations

import base64

from tests.runs import run
from tests.servers import Server

PNG = b"\x89PNG\r\n\x1a\n"


async def test_plotly_figure(server: Server) -> None:
    code = "import plotly.graph_objects as go\ngo.Figure(go.Bar(x=['a', 'b'], y=[1, 2]))"

    (item,) = (await run(server, code))["rich_outputs"]

    assert item["type"] == "application/vnd.plotly.v1+json"
    assert item["format"] == "json"
    assert item["data"]["data"][0]["type"] == "bar"
    assert item["metadata"]["source"] == "plotly"


async def test_plotly_figure_that_is_shown(server: Server) -> None:
    code = "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2])).show()"

    (item,) = (await run(server, code))["rich_outputs"]

    assert item["metadata"]["source"] == "plotly"


async def test_altair_chart(server: Server) -> None:
    code = """
import altair as alt, pandas as pd
alt.Chart(pd.DataFrame({'a': [1, 2]})).mark_bar().encode(x='a')
"""
    answer = await run(server, code)

    (item,) = answer["rich_outputs"]
    assert item["metadata"]["source"] == "altair"
    assert "vega" in answer["html"]


async def test_altair_chart_as_vega(server: Server) -> None:
    code = """
import altair as alt, pandas as pd
with alt.renderers.enable('mimetype'):
    display(alt.Chart(pd.DataFrame({'a': [1, 2]})).mark_bar().encode(x='a'))
"""
    (item,) = (await run(server, code))["rich_outputs"]

    assert item["type"].startswith("application/vnd.vegalite.")
    assert item["data"]["mark"]["type"] == "bar"
    assert item["metadata"]["source"] == "altair"


async def test_bokeh_plot(server: Server) -> None:
    code = """
from bokeh.io import output_notebook
from bokeh.plotting import figure, show
output_notebook(hide_banner=True)
plot = figure(); plot.line([1, 2], [3, 4]); show(plot)
"""
    items = (await run(server, code))["rich_outputs"]

    assert {item["metadata"]["source"] for item in items} == {"bokeh"}
    assert any("application/vnd.bokehjs_exec.v0+json" in item["alternatives"] for item in items)


async def test_pil_image(server: Server) -> None:
    answer = await run(server, "from PIL import Image\nImage.new('RGB', (4, 4), 'red')")

    assert base64.b64decode(answer["png"]).startswith(PNG)
    (item,) = answer["rich_outputs"]
    assert item["type"] == "image/png"
    assert item["metadata"]["source"] == "pil"


async def test_sympy_expression(server: Server) -> None:
    answer = await run(server, "import sympy\nx = sympy.Symbol('x')\nsympy.Integral(x**2, x)")

    (item,) = answer["rich_outputs"]
    assert item["type"] == "text/latex"
    assert "\\int x^{2}" in item["data"]
    assert answer["result"] == "Integral(x**2, x)"


async def test_pandas_styler_and_series(server: Server) -> None:
    code = (
        "import pandas as pd\ndisplay(pd.DataFrame({'a': [1]}).style)\npd.Series([1, 2], name='s')"
    )

    answer = await run(server, code)

    assert "<style" in answer["html"]
    assert answer["dataframe"]["shape"][0] == 2
