#!/bin/sh
# Installs harden (or, with RIVAL=1, the benchmark's rival) with the given Python.
# PyTorch comes from TORCH_INDEX where that can be reached, else from what pip is configured with:
# an index that can't be reached must not fail the install, so it is asked first, and briefly.
set -eu
python=$1
pip="$python -m pip install --quiet --disable-pip-version-check --no-input"
index=""
if [ -n "${TORCH_INDEX:-}" ]; then
    if "$python" - "$TORCH_INDEX/torch/" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5).close()
except Exception:
    sys.exit(1)
PY
    then index="--extra-index-url $TORCH_INDEX"
    else echo "   $TORCH_INDEX can't be reached: taking torch from pip's own index"
    fi
fi
echo "   torch"
if [ -n "${RIVAL:-}" ]; then
    $pip $index 'torch==2.13.0' 'numpy<2' 'setuptools<81'
    echo "   fast-safe-rl"
    $pip fast-safe-rl 'torch==2.13.0' 'numpy<2' 'setuptools<81'
else
    $pip $index -c constraints.txt torch
    echo "   harden and the rest"
    $pip $index -c constraints.txt -e '.[dev]'
fi
