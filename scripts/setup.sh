#!/bin/sh
# Makes the virtual environment and installs the project into it; says what is missing.
set -eu

python=${PYTHON:-python3}
venv=${VENV:-.venv}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
    echo "Making $venv"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "Python's venv module does not work; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi
echo "Installing kernelagent and what it needs"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable .
VENV="$venv" sh scripts/languages.sh
echo "Registering the kernelspecs"
"$venv/bin/kernelagent" kernelspec install --sys-prefix
# The first import of matplotlib looks for fonts, which takes seconds: not the first user's.
"$venv/bin/python" -c 'import matplotlib.pyplot, pandas'
