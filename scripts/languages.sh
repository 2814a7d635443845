#!/bin/sh
# Installs what JavaScript, TypeScript and Go need; says what could not be had, and goes on.
set -u

venv=${VENV:-.venv}
PATH="$PATH:$(cd "$venv/bin" && pwd)"

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$1"
}

# Whether the program $1 is there in version $2 or newer; the rest makes it tell its version.
is_there() {
    program=$1 wanted=$2
    shift 2
    command -v "$program" >/dev/null 2>&1 || return 1
    found=$("$program" "$@" 2>/dev/null | grep -o '[0-9][0-9.]*' | head -n 1)
    [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

if ! is_there node 20 --version || ! command -v npm >/dev/null 2>&1; then
    echo "Installing Node.js"
    pip_install '.[javascript]' || echo "Node.js could not be installed: no JavaScript" >&2
fi
if command -v npm >/dev/null 2>&1; then
    echo "Installing what the JavaScript kernel needs"
    npm ci --omit=dev --no-audit --no-fund --silent --prefix kernels/javascript ||
        echo "npm could not install the packages in kernels/javascript: no JavaScript" >&2
fi
if ! is_there go 1.22 version; then
    echo "Installing the Go tool chain"
    pip_install '.[go]' || echo "the Go tool chain could not be installed: no Go" >&2
fi
if command -v go >/dev/null 2>&1; then
    echo "Compiling Go's standard library once (a minute the first time)"
    "$venv/bin/python" kernels/go/install.py || echo "the Go kernel could not be prepared" >&2
fi
exit 0
