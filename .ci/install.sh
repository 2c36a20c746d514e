#!/bin/sh
# Makes the virtual environment that is named and installs harden (with RIVAL=1: the benchmark's rival) into it.
# PyTorch comes from TORCH_INDEX where that can be reached, else from what pip is configured with:
# an index that can't be reached must not fail the install, so it is asked first, and briefly.
set -eu
venv=$1
python=$venv/bin/python
quietly="--quiet --quiet --disable-pip-version-check --no-input"

is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

base_python() {
    for name in ${PYTHON:-python3.11 python3 python}; do
        if is_python_311 "$name"; then echo "$name"; return; fi
    done
    echo "error: no CPython 3.11 among: ${PYTHON:-python3.11, python3, python};" \
        "name one: make install PYTHON=/path/to/python3.11" >&2
    exit 2
}

if ! { is_python_311 "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
    base=$(base_python)
    echo "   a virtual environment, with $base"
    # some distributions ship venv without the pip that it copies: then the base's own pip brings one
    "$base" -m venv "$venv" >/dev/null 2>&1 || {
        "$base" -m venv --without-pip "$venv"
        "$base" -m pip --python "$python" install $quietly pip
    }
fi

index=""
if [ -n "${TORCH_INDEX:-}" ]; then
    if "$python" - "$TORCH_INDEX/torch/" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5).close()
PY
    then index="--extra-index-url $TORCH_INDEX"
    else echo "   $TORCH_INDEX can't be reached: taking torch from pip's own index"
    fi
fi

pip="$python -m pip install $quietly $index"
echo "   torch"
if [ -n "${RIVAL:-}" ]; then
    $pip 'torch==2.13.0' 'numpy<2' 'setuptools<81'
    echo "   fast-safe-rl"
    $pip 'fast-safe-rl==0.1.0' 'torch==2.13.0' 'numpy<2' 'setuptools<81'
else
    # --upgrade: a build from the index that is asked for replaces one of the same version from elsewhere
    $pip --upgrade -c constraints.txt torch
    echo "   harden and the rest"
    $pip -c constraints.txt -e '.[dev]'
fi
echo "   done, with torch $("$python" -c 'from importlib.metadata import version; print(version("torch"))')"
