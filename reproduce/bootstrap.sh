#!/usr/bin/env bash
# Create or refresh .venv. Does nothing while pyproject.toml and constraints.txt are as they were the last time.
# Interrupted half way, it starts anew the next time: an unfinished .venv carries the file .unfinished and is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { echo "reproduce: $*" >&2; }
want=$(cat pyproject.toml reproduce/constraints.txt <(pwd) | sha256sum | cut -c1-16)
ready() { [ "$(cat .venv/.ready 2>/dev/null)" = "$want" ] && [ ! -e .venv/.unfinished ] && .venv/bin/python -c '' 2>/dev/null; }
ready && exit 0
mkdir -p runs && exec 9>runs/.bootstrap.lock   # closed for children (9>&-), so that a killed set-up never leaves it locked
if command -v flock >/dev/null && ! flock -n 9; then say "waiting for another set-up of .venv" && flock 9; fi
ready && exit 0

for python in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3} none; do
  [ "$python" = none ] && say "needs Python 3.11 or newer with venv: install it, or name it: PYTHON=/path/to/python ./reproduce/run" && exit 1
  "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 9>&- 2>/dev/null && break
done
if [ -e .venv/.unfinished ] || { [ -e .venv ] && ! .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  say "removing an unfinished .venv" && rm -rf .venv
fi
say "setting up .venv with $("$python" --version): downloads of about 500 MB the first time (PyTorch's CUDA build brings 2 GB more), then a minute"
mkdir -p .venv && touch .venv/.unfinished
[ -x .venv/bin/python ] || "$python" -m venv .venv 9>&-
# uv installs ten times as fast as pip but does not read pip's settings
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
what=(-c reproduce/constraints.txt -e '.[notebooks,reproduce,dev,site,formats,microscopes,dicom,dask,napari,monai,openvino,zoo]')
if ! { .venv/bin/python -m pip install -q --disable-pip-version-check -c reproduce/constraints.txt uv 9>&- &&
       .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python "${what[@]}" 9>&-; }; then
  say "uv could not do it, trying pip (some minutes)"
  .venv/bin/python -m pip install --disable-pip-version-check "${what[@]}" 9>&-
fi
echo "$want" > .venv/.ready && rm .venv/.unfinished && say ".venv is ready"
