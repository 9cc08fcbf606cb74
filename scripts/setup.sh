#!/bin/sh
# Brings .local/venv up to date: p2pnode, installed editable, with the versions in constraints.txt.
#
#   scripts/setup.sh          what p2pnode needs to run
#   scripts/setup.sh EXTRA    that and an extra of pyproject.toml: `dev`, `cuda`
#
# It needs a POSIX shell and a Python with pip. When nothing changed since the last time, it only
# compares a checksum. The environment is made anew when pyproject.toml or constraints.txt changed,
# so that it never holds a package that nobody asks for any more.
set -eu
exec >&2 # stdout belongs to the command that the caller runs next
cd -P "$(dirname "$0")/.."

say() { printf 'p2pnode: %s\n' "$*"; }

fail() {
    say "$*"
    exit 1
}

# The path is part of it because a virtual environment does not survive being moved.
state="$PWD $(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)"

installed() { [ -x .local/venv/bin/python ] && [ "$(cat ".local/venv/installed-$1" 2>/dev/null)" = "$state" ]; }

install() { # NAME REQUIREMENT
    .local/uv/bin/uv --system-certs pip install --python .local/venv/bin/python -c constraints.txt -e "$2" ||
        fail "the packages could not be installed; the lines above say why. Try again when that is mended."
    printf '%s\n' "$state" >".local/venv/installed-$1"
}

suitable='
import sys
from importlib.util import find_spec
sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and (find_spec("pip") or find_spec("ensurepip"))))
'

find_python() {
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c "$suitable" 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

get_uv() {
    pip_python=$python
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear .local/pip || fail "this Python has no pip: install it (on Debian: python3-pip)."
        pip_python=.local/pip/bin/python
    fi
    rm -rf .local/uv
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$pip_python" -m pip install --quiet --target .local/uv -c constraints.txt uv ||
        fail "uv could not be fetched from the package index; the lines above say why."
}

extra=${1:-base}
! installed "$extra" || exit 0

python=$(find_python) ||
    fail "needs Python 3.11, 3.12 or 3.13 with pip, and found none on PATH (on Debian: python3 and python3-pip)."

# One set-up at a time. The kernel drops the lock with the last process that holds the descriptor.
mkdir -p .local
exec 9>.local/lock
"$python" -c 'import fcntl; fcntl.flock(0, fcntl.LOCK_EX)' <&9

if ! installed base; then
    say "setting up $PWD/.local with $python (only the first time, and when dependencies change)"
    get_uv
    .local/uv/bin/uv --system-certs venv --quiet --clear --python "$python" .local/venv
    install base .
fi
installed "$extra" || install "$extra" ".[$extra]"
