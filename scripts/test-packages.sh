#!/bin/sh
# Installs what some tests need: published clients from npm and PyPI, and, as root, packages of the
# system.
# Says which tests are skipped without them.
set -u

PATH="$PATH:$PWD/${VENV:-.venv}/bin"
npm ci --omit=dev --no-audit --no-fund --silent --prefix tests/clients/javascript ||
    echo "Not installed: the JavaScript clients; the tests that need them are skipped" >&2

# It says that it wants Python 3.12, and uses nothing that 3.11 has not.
"${VENV:-.venv}/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --ignore-requires-python hopx-cli==0.1.2 ||
    echo "Not installed: the hopx command line; the tests that need it are skipped" >&2

packages="r-cran-irkernel vim htop"
missing=
for package in $packages; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Word by word on purpose.
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "Not installed:$missing; the tests that need them are skipped" >&2
exit 0
