#!/usr/bin/env bash
# Tests the paper's claim, n > 1 at equal updates, in HOURS of one accelerator, and draws the report.
#
#   launch/reproduce.sh HOURS --data_dir=DIR [--workdir=DIR] [--processes=3] [FLAGS]
#
# HOURS may be a fraction. FLAGS are those of python -m nfnets_augmult.reproduce. The same command
# goes on from where it was stopped. The environment .venv is made first where it is missing (CUDA:
# extras=cuda); PYTHON=/path/to/python takes another one.
set -euo pipefail
hours="${1:-}"
[[ "$hours" =~ ^[0-9]*\.?[0-9]+$ ]] || {
  echo "error: say how many hours there are, as in launch/reproduce.sh 8" >&2
  exit 1
}
shift
flags=() config=--config=experiments/equal_updates.py
for flag in "$@"; do
  case "$flag" in
    --config=*) config="$flag" ;;
    --data_dir=*) flags+=("--config.dataset.data_dir=${flag#*=}") ;;
    *) flags+=("$flag") ;;
  esac
done
if [ -z "${PYTHON:-}" ]; then
  extras="${extras:-}"
  . "$(dirname "$0")/environment.sh"
  PYTHON=.venv/bin/python
else
  cd "$(dirname "$0")/.."
fi
exec "$PYTHON" -m nfnets_augmult.reproduce --hours="$hours" "$config" ${flags[@]+"${flags[@]}"}
