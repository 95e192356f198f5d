#!/usr/bin/env bash
# What needs a GPU, in at most 8 minutes on one card, with nothing to download; see scripts/gpu.py --help.
# PYTHON names the interpreter; default: the one of .venv where there is one, else python3.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
exec "$PYTHON" scripts/gpu.py "$@"
