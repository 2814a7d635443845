"""What code shows: slots, the list of rich outputs, updates."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.runs import run
from tests.servers import Server

PNG = b"\x89PNG\r\n\x1a\n"

DRAW = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [4, 5, 6], label='line')\n"


SHOW = """
from IPython.display import display
def show(**bundle):
    display({name.replace('__', '/').replace('_', '+'): data for name, data in bundle.items()},
            raw=True)
"""


def kinds(answer: dict[str, Any]) -> list[str]:
    return [item["type"] for item in answer["rich_outputs"]]


# Slots


async def test_figure_fills_png_and_chart(server: Server) -> None:
    answer = await run(server, DRAW + "plt.title('A title'); plt.xlabel('x'); plt.show()")

    assert base64.b64decode(answer["png"]).startswith(PNG)
    chart = answer["chart"]
    assert chart["type"] == "line"
    assert chart["title"] == "A title"
    assert chart["x_label"] == "x"
    assert chart["elements"] == [{"label": "line", "points": [[1, 4], [2, 5], [3, 6]]}]


async def test_figure_left_open_is_shown(server: Server) -> None:
    answer = await run(server, DRAW)

    assert base64.b64decode(answer["png"]).startswith(PNG)
    assert len(answer["rich_outputs"]) == 1


async def test_saved_figure_is_shown_too(server: Server) -> None:
    answer = await run(server, DRAW + "plt.savefig('figure.png')")

    assert base64.b64decode(answer["png"]).startswith(PNG)
    assert (server.workspace / "figure.png").read_bytes().startswith(PNG)


async def test_last_of_several_figures_is_in_the_slot_and_all_are_in_the_list(
    server: Server,
) -> None:
    answer = await run(server, f"{DRAW}plt.show()\n{DRAW}plt.title('second')\nplt.show()")

    assert kinds(answer) == ["image/png", "image/png"]
    assert answer["png"] == answer["rich_outputs"][1]["data"]
    assert answer["png"] != answer["rich_outputs"][0]["data"]
    assert answer["chart"]["title"] == "second"


async def test_table_fills_html_and_dataframe(server: Server) -> None:
    answer = await run(server, "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})")

    assert 'class="dataframe"' in answer["html"]
    assert "0  1  x" in answer["result"]
    table = answer["dataframe"]
    assert [column["name"] for column in table["columns"]] == ["a", "b"]
    assert table["shape"] == [2, 2]
    assert [row[-2:] for row in table["rows"]] == [[1, "x"], [2, "y"]]


async def test_html_slot(server: Server) -> None:
    answer = await run(server, "from IPython.display import HTML\nHTML('<b>bold</b>')")

    assert answer["html"] == "<b>bold</b>"
    assert answer["rich_outputs"][0]["format"] == "html"


async def test_svg_slot(server: Server) -> None:
    picture = "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>"

    answer = await run(server, f"from IPython.display import SVG\nSVG(data={picture!r})")

    assert answer["svg"].startswith("<svg")
    assert answer["rich_outputs"][0]["type"] == "image/svg+xml"
    assert answer["rich_outputs"][0]["format"] == "text"


async def test_markdown_slot(server: Server) -> None:
    answer = await run(server, "from IPython.display import Markdown\nMarkdown('# Title')")

    assert answer["markdown"] == "# Title"
    assert answer["rich_outputs"][0]["type"] == "text/markdown"


@pytest.mark.parametrize("value", [{"a": [1, None, "ä"]}, [], 0, False, ""])
async def test_json_slot_holds_any_json(server: Server, value: Any) -> None:
    bundle = {"application/json": value}

    answer = await run(
        server, f"from IPython.display import display\ndisplay({bundle!r}, raw=True)"
    )

    assert answer["json"] == value
    assert type(answer["json"]) is type(value)


async def test_json_null_does_not_break_the_answer(server: Server) -> None:
    answer = await run(server, f"{SHOW}show(application__json=None, text__plain='x')")

    assert answer["success"] is True


async def test_latex_has_its_own_type(server: Server) -> None:
    answer = await run(server, "from IPython.display import Latex\nLatex('$x^2$')")

    assert kinds(answer) == ["text/latex"]
    assert answer["rich_outputs"][0]["data"] == "$x^2$"


async def test_jpeg_is_a_rich_output_but_no_png(server: Server) -> None:
    code = "from IPython.display import Image\nImage(data=b'\\xff\\xd8\\xff\\xe0', format='jpeg')"

    answer = await run(server, code)

    assert "png" not in answer
    assert kinds(answer) == ["image/jpeg"]
    assert base64.b64decode(answer["rich_outputs"][0]["data"]) == b"\xff\xd8\xff\xe0"


async def test_plain_text_result_is_no_rich_output(server: Server) -> None:
    answer = await run(server, "display('shown')\n'returned'")

    assert answer["result"] == "'returned'"
    assert answer["rich_outputs"] == []


async def test_unknown_types_pass_through(server: Server) -> None:
    bundle = {"application/x-own": "data", "text/plain": "plain"}
    code = f"from IPython.display import display\ndisplay({bundle!r}, raw=True)"

    (item,) = (await run(server, code))["rich_outputs"]

    assert item["type"] == "application/x-own"
    assert item["data"] == "data"
    assert item["alternatives"] == {"text/plain": "plain"}
    assert item["metadata"]["source"] == "other"


# The list


async def test_two_figures_and_a_table_come_in_order(server: Server) -> None:
    code = f"""
import pandas as pd
from IPython.display import display
{DRAW}
plt.show()
{DRAW}
plt.show()
display(pd.DataFrame({{'a': [1]}}))
"""
    for path in ("/execute", "/execute/rich"):
        answer = await run(server, code, path=path)

        assert kinds(answer) == ["image/png", "image/png", "text/html"]
        sources = [item["metadata"]["source"] for item in answer["rich_outputs"]]
        assert sources == ["matplotlib", "matplotlib", "pandas"]
        assert [item["format"] for item in answer["rich_outputs"]] == ["base64", "base64", "html"]


async def test_each_rich_output_tells_its_size_and_other_forms(server: Server) -> None:
    answer = await run(server, DRAW + "plt.show()\nimport pandas as pd\npd.DataFrame({'a': [1]})")

    figure, table = answer["rich_outputs"]
    assert figure["metadata"]["size"] == len(figure["data"])
    assert set(figure["alternatives"]) == {"text/plain", "application/vnd.kernelagent.chart+json"}
    assert set(table["alternatives"]) == {"text/plain", "application/vnd.dataframe+json"}
    assert table["execution_count"] == answer["execution_count"]
    assert "execution_count" not in figure


async def test_exception_after_a_plot_keeps_the_plot(server: Server) -> None:
    answer = await run(server, DRAW + "plt.show()\nraise ValueError('after')")

    assert answer["outcome"] == "error"
    assert base64.b64decode(answer["png"]).startswith(PNG)
    assert answer["stderr"].endswith("ValueError: after\n")


async def test_figure_still_open_when_code_raises_is_kept_and_not_shown_twice(
    server: Server,
) -> None:
    answer = await run(server, DRAW + "raise ValueError('after')")
    after = await run(server, "1")

    assert len(answer["rich_outputs"]) + len(after["rich_outputs"]) == 1


async def test_subplots_are_one_figure_with_several_charts(server: Server) -> None:
    code = "import matplotlib.pyplot as plt\n_, (left, right) = plt.subplots(1, 2)\n"
    code += "left.plot([1]); right.bar([1], [2]); plt.show()"

    answer = await run(server, code)

    assert len(answer["rich_outputs"]) == 1
    assert answer["chart"]["type"] == "superchart"
    assert [chart["type"] for chart in answer["chart"]["elements"]] == ["line", "bar"]


async def test_outputs_keep_the_order_of_text_and_pictures(server: Server) -> None:
    code = f"print('one')\n{DRAW}plt.show()\nprint('two')\ndisplay(1)\nprint('three')"

    outputs = (await run(server, code, path="/execute/rich"))["outputs"]

    assert [item.get("text") or item["output_type"] for item in outputs] == [
        "one\n",
        "display_data",
        "two\n",
        "display_data",
        "three\n",
    ]


async def test_many_displays_come_in_order(server: Server) -> None:
    code = f"{SHOW}\nfor n in range(500): show(text__html=str(n))"

    answer = await run(server, code)

    assert [item["data"] for item in answer["rich_outputs"]] == [str(n) for n in range(500)]
    assert answer["html"] == "499"
    assert answer["truncated"] is False


async def test_more_displays_than_allowed_are_cut_with_true_counts_and_kept_in_files(
    server: Server,
) -> None:
    code = f"{SHOW}\nfor n in range(1010): show(text__html=f'<i>{{n}}</i>')"

    answer = await run(server, code)

    facts = answer["truncation"]
    assert answer["truncated"] is True
    assert (facts["displays"], facts["kept_displays"]) == (1010, 1000)
    assert facts["lost_bytes"] == 0
    assert "more than 1000 displays" in answer["stderr"]
    rest = [(server.workspace / file["path"]).read_text() for file in facts["files"]]
    assert rest == [f"<i>{n}</i>" for n in range(1000, 1010)]


# Updates and clearing


async def test_updated_display_shows_its_last_data_in_its_first_place(server: Server) -> None:
    code = """
from IPython.display import HTML, display
handle = display(HTML('first'), display_id=True)
display(HTML('other'))
handle.update(HTML('last'))
"""
    answer = await run(server, code)

    assert [item["data"] for item in answer["rich_outputs"]] == ["last", "other"]


async def test_update_of_an_earlier_runs_display_is_told_apart(server: Server) -> None:
    code = (
        "from IPython.display import HTML, display\nhandle = display(HTML('old'), display_id='d1')"
    )
    await run(server, code)

    answer = await run(server, "handle.update(HTML('new'))", path="/execute/rich")

    assert answer["outputs"] == []
    (update,) = answer["display_updates"]
    assert update["display_id"] == "d1"
    assert update["data"]["text/html"] == "new"


async def test_clear_output_withdraws_what_was_shown(server: Server) -> None:
    code = "from IPython.display import HTML, clear_output, display\n"
    code += "print('gone'); display(HTML('gone')); clear_output(); print('left')"

    answer = await run(server, code)

    assert answer["stdout"] == "left\n"
    assert answer["rich_outputs"] == []


async def test_clear_output_that_waits_clears_only_when_something_follows(server: Server) -> None:
    code = "from IPython.display import clear_output\nprint('stays'); clear_output(wait=True)"

    assert (await run(server, code))["stdout"] == "stays\n"
    assert (await run(server, code + "; print('next')"))["stdout"] == "next\n"
