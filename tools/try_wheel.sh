#!/bin/sh
# Builds a wheel in dist/, installs it in an empty environment, and trains there with the compiled kernel:
#
#     tools/try_wheel.sh python3
set -eu
python=$(command -v "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" "$root"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$work"/*.whl
cd "$work"
venv/bin/onelayer train --data digits --epochs 5 --backend native --no-figures --out run
grep -q '"backend": "native"' run/summary.json
mkdir -p "$root/dist"
cp "$work"/*.whl "$root/dist/"
echo "good: dist/$(basename "$work"/*.whl)"
