#!/bin/sh
# sh tools/setup.sh PYTHON VENV EXTRA: a virtual environment with phiscale (editable) and one extra. Says in one line what to do if it can't.
set -u
python=$1 venv=$2 extra=$3

fail() {
    echo "phiscale set-up: $*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "no '$python' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module; on Debian: apt-get install python3-venv"

# torch with what it brings takes 6 GB
if [ ! -d "$venv/lib" ]; then
    mkdir -p "$(dirname "$venv")" && free_kb=$(df -Pk "$(dirname "$venv")" | awk 'NR == 2 {print $4}')
    [ "$free_kb" -gt 7000000 ] || fail "the disk has $((free_kb / 1000)) MB free and PyTorch needs 7000 MB; free some, or put the environment elsewhere: make VENV=/path"
fi
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "can't make a virtual environment in $venv; is the folder writable, and is the disk full?"
fi

log="$venv/install.log"
echo "phiscale set-up: installing into $venv (several minutes the first time; log: $log)"
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]" >"$log" 2>&1; then
    exit 0
fi
if grep -qi 'no space left' "$log"; then
    fail "the disk is full; free 7 GB and run the same command again"
elif grep -qiE 'connection|timed out|name resolution|could not find a version|max retries|temporary failure' "$log"; then
    fail "the package index can't be reached (or lacks a package); check the network or pip's index settings, then run the same command again; $(grep -iE 'error' "$log" | tail -1)"
fi
tail -20 "$log" >&2
fail "the installation failed; the lines above say why (all of it: $log)"
