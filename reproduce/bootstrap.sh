#!/usr/bin/env bash
# Create or refresh .venv; does nothing when pyproject.toml and constraints.txt did not change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
want=$(cat pyproject.toml reproduce/constraints.txt | sha256sum | cut -c1-16)
[ "$(cat .venv/.stamp 2>/dev/null || true)" = "$want" ] && exit 0
for py in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
  [ -n "$py" ] && command -v "$py" >/dev/null && "$py" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
done
echo "setting up .venv with $("$py" --version) ..." >&2
[ -x .venv/bin/python ] || "$py" -m venv .venv
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"; [ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS
if .venv/bin/python -m pip install -q --disable-pip-version-check uv; then inst=(.venv/bin/uv pip install --python .venv/bin/python); else inst=(.venv/bin/python -m pip install); fi
"${inst[@]}" -c reproduce/constraints.txt -e '.[dev]'
echo "$want" > .venv/.stamp
