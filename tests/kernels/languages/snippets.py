"""The same small programs in every language that we ship."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Snippets:
    """Programs by what they do; prints are on stdout unless said otherwise."""

    # prints "hello"
    hello: str
    # an expression, and its value as the language shows it; empty where there are no values
    value: str
    shown: str
    # keeps 41; prints it and 1 more
    remember: str
    recall: str
    # prints "out" on stdout and "err" on stderr
    both: str
    # prints "before", then fails for a reason of its own
    fail: str
    error_name: str
    # what the error says, and the line of the cell that it names
    error_text: str
    error_line: str
    # does not parse
    nonsense: str
    # prints "begun", then computes without end
    spin: str
    # prints "begun", then waits for a minute
    wait: str
    # prints the environment variable KA_TEST in brackets
    environment: str
    # prints the working directory
    directory: str
    # goes to the directory "below"
    move: str
    # ends with status 3, and with 0
    leave: str
    leave_well: str
    # prints "begun", then kills the process that it runs in
    die: str
    # prints "a", waits until there is a file "go", prints "b"
    slowly: str
    # prints 0 to 99999, one a line
    flood: str
    # shows <b>bold</b> as HTML between two lines "one" and "two"
    html: str
    # prints the line that it reads in brackets
    ask: str
    # prints the text "žluť 日本 🎉"
    unicode: str
    # Whether `leave` ends what holds the state.
    leaving_loses_state: bool = False


SNIPPETS: dict[str, Snippets] = {
    "python": Snippets(
        hello="print('hello')",
        value="6 * 7",
        shown="42",
        remember="x = 41",
        recall="print(x + 1)",
        both="import sys\nprint('out')\nprint('err', file=sys.stderr)",
        fail="print('before')\n\nraise ValueError('of its own')",
        error_name="ValueError",
        error_text="of its own",
        error_line="3 raise ValueError",
        nonsense="print('x'\n)) nonsense",
        spin="print('begun', flush=True)\nwhile True: pass",
        wait="import time\nprint('begun', flush=True)\ntime.sleep(60)",
        environment="import os\nprint(f\"[{os.environ.get('KA_TEST', '')}]\")",
        directory="import os\nprint(os.getcwd())",
        move="import os\nos.chdir('below')",
        leave="exit(3)",
        leave_well="exit(0)",
        die="import os\nprint('begun', flush=True)\nos.kill(os.getpid(), 9)",
        slowly=(
            "import os, time\nprint('a', flush=True)\n"
            "while not os.path.exists('go'): time.sleep(0.01)\nprint('b')"
        ),
        flood="for i in range(100000): print(i)",
        html=(
            "from IPython.display import HTML, display\n"
            "print('one')\ndisplay(HTML('<b>bold</b>'))\nprint('two')"
        ),
        ask="print(f'[{input()}]')",
        unicode="print('žluť 日本 🎉')",
    ),
    "javascript": Snippets(
        hello="console.log('hello')",
        value="6 * 7",
        shown="42",
        remember="const x = 41",
        recall="console.log(x + 1)",
        both="console.log('out')\nconsole.error('err')",
        fail="console.log('before')\n\nthrow new RangeError('of its own')",
        error_name="RangeError",
        error_text="of its own",
        error_line=":3:",
        nonsense="console.log('x'\n)) nonsense",
        spin="console.log('begun')\nwhile (true) {}",
        wait="console.log('begun')\nawait new Promise(done => setTimeout(done, 60000))",
        environment="console.log(`[${process.env.KA_TEST ?? ''}]`)",
        directory="console.log(process.cwd())",
        move="process.chdir('below')",
        leave="process.exit(3)",
        leave_well="process.exit(0)",
        die="console.log('begun')\nprocess.kill(process.pid, 'SIGKILL')",
        slowly=(
            "console.log('a')\n"
            "while (!require('fs').existsSync('go'))\n"
            "  await new Promise(done => setTimeout(done, 10))\n"
            "console.log('b')"
        ),
        flood="for (let i = 0; i < 100000; i++) console.log(i)",
        html="console.log('one')\ndisplay.html('<b>bold</b>')\nconsole.log('two')",
        ask="console.log(`[${prompt('')}]`)",
        unicode="console.log('žluť 日本 🎉')",
    ),
    "bash": Snippets(
        hello="echo hello",
        value="",
        shown="",
        remember="x=41",
        recall="echo $((x + 1))",
        both="echo out\necho err >&2",
        fail="echo before\n\nno_such_command of its own",
        error_name="ExitStatus",
        error_text="no_such_command",
        error_line="line 3",
        nonsense="echo x\nif then ) nonsense",
        spin="echo begun\nwhile true; do :; done",
        wait="echo begun\nsleep 60",
        environment='echo "[$KA_TEST]"',
        directory="pwd",
        move="cd below",
        leave="exit 3",
        leave_well="exit 0",
        die="echo begun\nkill -9 $$",
        slowly="echo a\nuntil [ -e go ]; do sleep 0.01; done\necho b",
        flood="seq 0 99999",
        html="echo one\ndisplay --type text/html - <<< '<b>bold</b>'\necho two",
        ask='read -r line\necho "[$line]"',
        unicode="echo 'žluť 日本 🎉'",
        leaving_loses_state=True,
    ),
    "go": Snippets(
        hello='fmt.Println("hello")',
        value="6 * 7",
        shown="42",
        remember="const x = 41",
        recall="fmt.Println(x + 1)",
        both='fmt.Println("out")\nfmt.Fprintln(os.Stderr, "err")',
        fail='fmt.Println("before")\n\npanic("of its own")',
        error_name="panic",
        error_text="of its own",
        error_line=":3",
        nonsense='fmt.Println("x"\n)) nonsense',
        spin='fmt.Println("begun")\nfor {\n}',
        wait='fmt.Println("begun")\ntime.Sleep(time.Minute)',
        environment='fmt.Printf("[%s]\\n", os.Getenv("KA_TEST"))',
        directory="here, _ := os.Getwd()\nfmt.Println(here)",
        move="",
        leave="os.Exit(3)",
        leave_well="os.Exit(0)",
        die='fmt.Println("begun")\nsyscall.Kill(os.Getpid(), syscall.SIGKILL)',
        slowly=(
            'fmt.Println("a")\n'
            'for _, err := os.Stat("go"); err != nil; _, err = os.Stat("go") {\n'
            "\ttime.Sleep(10 * time.Millisecond)\n}\n"
            'fmt.Println("b")'
        ),
        flood=(
            "w := bufio.NewWriter(os.Stdout)\n"
            "for i := 0; i < 100000; i++ { fmt.Fprintln(w, i) }\n"
            "w.Flush()"
        ),
        html='fmt.Println("one")\ndisplay.HTML("<b>bold</b>")\nfmt.Println("two")',
        ask=(
            "line, _ := bufio.NewReader(os.Stdin).ReadString('\\n')\n"
            'fmt.Printf("[%s]\\n", strings.TrimSpace(line))'
        ),
        unicode='fmt.Println("žluť 日本 🎉")',
    ),
}

# The same language but for its types, which stand where a parser must mind them.
SNIPPETS["typescript"] = replace(
    SNIPPETS["javascript"],
    hello="const greeting: string = 'hello'\nconsole.log(greeting)",
    value="(6 as number) * 7",
    remember="interface Kept { x: number }\nconst kept: Kept = { x: 41 }",
    recall="console.log(kept.x + 1)",
    both="console.log('out' as string)\nconsole.error('err')",
    fail="console.log('before')\n\nthrow new RangeError('of its own' as string)",
    wait="console.log('begun')\nawait new Promise<void>(done => setTimeout(done, 60000))",
    slowly=(
        "console.log('a')\n"
        "while (!require('fs').existsSync('go')) {\n"
        "  await new Promise<void>(done => setTimeout(done, 10))\n}\n"
        "console.log('b')"
    ),
    flood="for (let i: number = 0; i < 100000; i++) console.log(i)",
)
