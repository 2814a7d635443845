"""Go, driven as the host kernel does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.kernels.host.harness import Host, Outcome


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host in an empty directory."""
    monkeypatch.chdir(tmp_path)
    host = Host("go")
    yield host
    host.close()


def begun(outcome: Outcome) -> bool:
    """Whether it has printed "begun"."""
    return "begun" in outcome.stdout


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("6 * 7", "42"),
        ('"text"', '"text"'),
        ("[]int{1, 2}", "[]int{1, 2}"),
        ("struct{ A int }{1}.A", "1"),
        ('strings.ToUpper("a")', '"A"'),
        ("x := 3; x++; x", "4"),
        ('strconv.Atoi("5")', None),
        ('fmt.Println("a")', None),
        ("func() {}()", None),
        ("x := 5", None),
        ('errors.New("e")', None),
        ("math.Sqrt(2) > 1.4 // a comment", "true"),
    ],
)
def test_the_last_value_is_shown(go: Host, code: str, shown: str | None) -> None:
    outcome = go.run(code)
    assert outcome.ok, outcome
    assert outcome.text == shown


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["const a = 41", "fmt.Print(a + 1)"], "42"),
        (["var v = 41", "fmt.Print(v + 1)"], "42"),
        (["v := 41", "fmt.Print(v + 1)"], "42"),
        (["a, b := 1, 2", "a := 5", "fmt.Print(a, b)"], "5 2"),
        (["func f() int { return 1 }", "func f() int { return 2 }", "fmt.Print(f())"], "2"),
        (["func f() int { return g() }\nfunc g() int { return 7 }", "fmt.Print(f())"], "7"),
        (["type T struct{ X int }", "func (t T) D() int { return 4 }", "fmt.Print(T{}.D())"], "4"),
        (
            ["type T int\nfunc (t T) S() int { return 1 }", "type T string", "fmt.Print(T(0).S())"],
            "1",
        ),
        (
            ["func least[T cmp.Ordered](a, b T) T { return min(a, b) }", "fmt.Print(least(1, 2))"],
            "1",
        ),
        (['import str "strings"', 'fmt.Print(str.Repeat("a", 3))'], "aaa"),
        (['import "crypto/rand"', "b := make([]byte, 4); n, _ := rand.Read(b); fmt.Print(n)"], "4"),
        (["const (\n\tA = iota\n\tB\n)", "fmt.Print(A, B)"], "0 1"),
        (["unused := 1\nvar other int", "fmt.Print(1)"], "1"),
        (['func main() { fmt.Print("own main") }'], "own main"),
        (["x := 1\nfor i := 0; i < 3; i++ {\n\tx *= 2\n}\nfmt.Print(x)"], "8"),
        (['if x := 2; x > 1 { fmt.Print("yes") }'], "yes"),
        (["var f = func(n int) int { return n + 1 }", "fmt.Print(f(1))"], "2"),
    ],
)
def test_declarations_live_on(go: Host, cells: list[str], expected: str) -> None:
    for cell in cells:
        outcome = go.run(cell)
        assert outcome.ok, outcome
    assert outcome.stdout == expected


def test_a_variable_that_is_not_used_is_not_computed_again(go: Host, tmp_path: Path) -> None:
    go.run('count, err := os.OpenFile("log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)')
    go.run("6 * 7")
    go.run('n, _ := count.WriteString("x"); n')
    assert (tmp_path / "log").read_text() == "x"


def test_a_whole_program_runs_as_it_is(go: Host) -> None:
    code = (
        '\n\npackage main\n\nimport (\n\t"fmt"\n\t"os"\n)\n\n'
        'func main() {\n\tfmt.Println("hi")\n\tos.Exit(4)\n}\n'
    )
    go.run("const x = 1")
    outcome = go.run(code)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == ("hi\n", "", 4)
    shown = go.run(
        'package main\nimport "kernelagent/display"\nfunc main() { display.HTML("<i>x</i>") }'
    )
    assert shown.displays[0]["data"]["text/html"] == "<i>x</i>"
    assert go.run("x").text == "1"


def test_errors_of_the_compiler_are_in_lines_of_the_cell(go: Host) -> None:
    outcome = go.run('fmt.Println("a")\n\nundefined1 + 1\nvar s string = 5')
    assert outcome.failure.name == "CompileError"
    assert outcome.stdout == ""
    text = "\n".join(outcome.failure.traceback)
    assert "Cell In[1]:3:1: undefined: undefined1" in text
    assert "    undefined1 + 1\n    ^" in text
    assert "Cell In[1]:4:16: cannot use 5" in text
    assert "ka-go" not in text
    assert "main.go" not in text
    # Of what did not compile nothing is kept.
    go.run("const kept = 1; nonsense(")
    assert go.run("kept").failure.name == "CompileError"
    whole = go.run("package main\n\nfunc main() {\n\tx := 1\n}\n")
    assert "Cell In[4]:4:2: declared and not used: x" in whole.failure.value


@pytest.mark.parametrize(
    ("code", "name", "value", "line"),
    [
        ('fmt.Print("a")\n\npanic("of its own")', "panic", "of its own", 3),
        ("var list []int\n_ = list[3]", "RuntimeError", "index out of range [3] with length 0", 2),
        ('var m map[string]int\nm["a"] = 1', "panic", "assignment to entry in nil map", 2),
        ("c := make(chan int)\n<-c", "FatalError", "all goroutines are asleep - deadlock!", 2),
        ('go func() {\n\tpanic("inside")\n}()\ntime.Sleep(time.Minute)', "panic", "inside", 2),
    ],
)
def test_a_panic_is_a_failure_with_the_lines_of_the_cell(
    go: Host, code: str, name: str, value: str, line: int
) -> None:
    go.run("const before = 1")
    outcome = go.run(code)
    assert outcome.failure.name == name
    assert value in outcome.failure.value + outcome.failure.traceback[0]
    assert f"    Cell In[2]:{line} in main" in "\n".join(outcome.failure.traceback)
    assert go.run("before").text == "1"


def test_a_panic_in_an_older_cell_names_that_cell(go: Host) -> None:
    go.run("\nfunc bad() { panic(1) }")
    trace = "\n".join(go.run("bad()").failure.traceback)
    assert "Cell In[1]:2 in bad" in trace
    assert "Cell In[2]:1 in main" in trace


def test_what_is_printed_to_stderr_is_not_taken_for_a_panic(go: Host) -> None:
    outcome = go.run('fmt.Fprint(os.Stderr, "a panic: no\\npanic: at line start\\n"); os.Exit(1)')
    assert outcome.stderr == "a panic: no\npanic: at line start\n"
    assert (outcome.exit_code, outcome.ended and outcome.ended.failure) == (1, None)


def test_displays_stand_in_their_place(go: Host) -> None:
    code = (
        'for i := 0; i < 20; i++ {\n\tfmt.Println("a", i)\n\tdisplay.Text(fmt.Sprint(i))\n'
        '\tfmt.Println("b", i)\n}'
    )
    outcome = go.run(code)
    text = "".join(
        value if kind == "stdout" else f"[{value['text/plain']}]" for kind, value in outcome.events
    )
    assert text == "".join(f"a {number}\n[{number}]b {number}\n" for number in range(20))


def test_displays_of_all_kinds(go: Host) -> None:
    outcome = go.run(
        'd := display.HTML("<b>x</b>")\nd.HTML("<b>y</b>")\n'
        'display.Table([]struct{ A int; B string }{{1, "<x>"}})\n'
        "display.Image(image.NewGray(image.Rect(0, 0, 2, 2)))\n"
        'display.JSON(map[string]int{"a": 1})\ndisplay.Markdown("# T")\ndisplay.SVG("<svg/>")'
    )
    assert outcome.ok, outcome
    first, second, table, image, value, *_ = outcome.displays
    assert (first["update"], second["update"]) == (False, True)
    assert first["id"] == second["id"]
    assert "<td>&lt;x&gt;</td>" in table["data"]["text/html"]
    assert image["data"]["image/png"].startswith("iVBOR")
    assert value["data"]["application/json"] == {"a": 1}
    assert len(outcome.displays) == 7
    assert outcome.result is None


def test_input_is_asked_for(go: Host) -> None:
    code = 's := bufio.NewScanner(os.Stdin)\nfor s.Scan() {\n\tfmt.Printf("[%s]", s.Text())\n}'
    assert go.run(code, lines=["one", "zwei é"]).stdout == "[one][zwei é]"
    assert go.run(code).stdout == ""
    asking = 'line, err := display.Ask("name? ")\nfmt.Print(line, err)'
    outcome = go.run(asking, lines=["Zoë"])
    assert (outcome.stdout, outcome.prompts) == ("Zoë<nil>", [("name? ", False)])
    assert "nobody can answer" in go.run(asking).stdout


@pytest.mark.parametrize(
    "code",
    [
        "for {\n}",
        "time.Sleep(time.Minute)",
        "signal.Ignore(os.Interrupt)\ntime.Sleep(time.Minute)",
        'exec.Command("sleep", "60").Run()',
    ],
)
def test_an_interrupt_ends_the_program_alone(go: Host, code: str) -> None:
    go.run("const x = 41")
    outcome = go.run(f'fmt.Println("begun")\n{code}', interrupt_when=begun)
    assert outcome.failure.name == "KeyboardInterrupt"
    assert outcome.exit_code == 130
    assert go.run("x + 1").text == "42"
    assert not psutil.Process(go.driver.pid).children(recursive=True)


def test_interrupts_at_random_lose_nothing(go: Host) -> None:
    go.run("const x = 41")
    for number in range(20):
        looks = iter(range(1000))
        go.run(
            f"time.Sleep(20 * time.Millisecond) // {number}",
            interrupt_when=lambda _, looks=looks, number=number: next(looks) >= number,  # type: ignore[misc]
        )
    assert go.run("x + 1").text == "42"


def test_an_interrupt_between_the_compiler_and_the_program_is_not_lost(go: Host) -> None:
    for number in range(40):
        ends = time.monotonic() + number * 0.004
        outcome = go.run(
            f"time.Sleep(time.Minute) // {number}",
            interrupt_when=lambda _, ends=ends: time.monotonic() >= ends,  # type: ignore[misc]
        )
        assert outcome.failure.name == "KeyboardInterrupt"


def test_environment_and_directory_are_data(go: Host, tmp_path: Path) -> None:
    awkward = "a\"b'c$(id) é\n2"
    code = 'here, _ := os.Getwd()\nfmt.Printf("%s|%s", os.Getenv("KA"), here)'
    assert go.run(code, env={"KA": awkward}, cwd="/usr").stdout == f"{awkward}|/usr"
    assert go.run(code).stdout == f"|{tmp_path}"
    go.driver.configure({"KA": "kept"}, [], "/")
    assert go.run(code).stdout == "kept|/"
    refused = go.run(code, cwd="/no/such")
    assert refused.failure.name == "ScopeError"
    assert refused.failure.value == "/no/such: No such file or directory"


def test_a_module_in_the_directory_is_honoured(go: Host, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.org/own\n\ngo 1.22\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tools.go").write_text(
        "package tools\n\nfunc Twice(n int) int { return n * 2 }\n"
    )
    before = sorted(tmp_path.rglob("*"))
    outcome = go.run('import "example.org/own/tools"\nfmt.Print(tools.Twice(21))')
    assert outcome.stdout == "42", outcome
    assert go.run("tools.Twice(4)").text == "8"
    assert go.run("display.Text(fmt.Sprint(tools.Twice(5)))").displays[0]["data"] == {
        "text/plain": "10"
    }
    whole = (
        'package main\nimport (\n\t"example.org/own/tools"\n\t"fmt"\n)\n'
        "func main() { fmt.Print(tools.Twice(1)) }"
    )
    assert go.run(whole).stdout == "2"
    failed = go.run('import "example.org/own/missing"\nmissing.X()')
    assert failed.failure.name == "CompileError"
    assert sorted(tmp_path.rglob("*")) == before


def test_questions_are_answered(go: Host) -> None:
    go.run("type Point struct{ X int }\nfunc twice(n int) int { return n * 2 }\nlimit := 5")
    listed = go.driver.variables(10)
    assert {item["name"]: item["type"] for item in listed["variables"]} == {
        "Point": "type",
        "twice": "func",
        "limit": "var",
    }
    assert go.driver.complete("strings.ToU", 11) == (["ToUpper", "ToUpperSpecial"], 8, 11)
    assert go.driver.complete("tw", 2)[0] == ["twice"]
    shown = go.driver.inspect("twice(1)", 2)
    assert shown is not None
    assert "return n * 2" in shown["text/plain"]
    shown = go.driver.inspect("strings.ToUpper", 15)
    assert shown is not None
    assert "func strings.ToUpper(s string) string" in shown["text/plain"]
    assert go.driver.is_complete("func f() {") == "incomplete"
    assert go.driver.is_complete("x := 1") == "complete"
    assert go.driver.is_complete(")") == "invalid"


def test_nothing_is_left(go: Host) -> None:
    go.run('exec.Command("sleep", "100").Start()')
    work = Path(go.driver._work)  # type: ignore[attr-defined]
    assert work.is_dir()
    assert not psutil.Process(go.driver.pid).children(recursive=True)
    go.close()
    assert not work.exists()
