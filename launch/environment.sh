# shellcheck shell=bash
# Makes or completes the virtual environment .venv of this checkout; sourced by the other scripts.
#
# Usage: extras=test; . launch/environment.sh     extras of setup.py, separated by commas
#
# It installs only what is missing, and does nothing when this checkout's setup.py, constraints
# and extras are as they were the last time.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

requirement=".${extras:+[$extras]}"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.13; do
    if [ -n "$candidate" ] && "$candidate" -c \
        'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
        2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11, 3.12 or 3.13 with the venv module was found. Install one (on Debian" \
       "and Ubuntu: apt install python3 python3-venv), or say where it is: PYTHON=/path/to/python3" >&2
  return 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python="$(find_python)"
  echo "Making the virtual environment .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi

# Written after a successful installation; holds what was asked for.
stamp=.venv/installed
wanted="$(cat setup.py launch/constraints.txt | cksum)"
# What is installed with extras is there without them, too.
if ! grep -qsF "$wanted ${requirement%]}" "$stamp"; then
  echo "Installing into .venv (a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint launch/constraints.txt --editable "$requirement"
  echo "$wanted $requirement" >> "$stamp"
fi
