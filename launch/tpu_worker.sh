#!/usr/bin/env bash
# What launch/tpu.sh runs on every worker of a Cloud TPU, in the copy of the code there.
#
# Usage: tpu_worker.sh setup | start TRAIN_FLAGS | stop SECONDS | logs | status
#
# Each ends with a line `== HOST: STATE`. The states: `bare` (nothing installed), `ready`,
# `running`, and `ended EXIT_STATUS STATUS_OF_THE_RUN`, see `read_status` in training/records.py.
set -euo pipefail

code="$(cd "$(dirname "$0")/.." && pwd)"
python="$code/.venv/bin/python"
files="$HOME/nfnets_augmult_run" # pid, log, ended
mkdir -p "$files"

is_running() {
  local pid
  pid="$(cat "$files/pid" 2>/dev/null)" || return 1
  # After a reboot the number may be that of another process.
  ps -ww -o args= -p "$pid" 2>/dev/null | grep -qF 'tpu_worker.sh run'
}

state() {
  if is_running; then
    echo running
  elif [ -e "$files/ended" ]; then
    echo "ended $(cat "$files/ended")"
  elif [ -e "$files/pid" ]; then
    echo 'ended killed unknown'
  elif [ -e "$code/.venv/installed" ]; then
    echo ready
  else
    echo bare
  fi
}

setup() {
  local fits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
  if ! python3 -c "$fits" 2>/dev/null; then
    PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv
    uv python install --quiet 3.12
    PYTHON="$(uv python find 3.12)"
    export PYTHON
  fi
  extras=tpu,gcs bash -e "$code/launch/environment.sh"
}

start() {
  is_running && return # a second try of an ssh connection that broke off
  rm -f "$files/ended" "$files/pid"
  # Left by a process that was killed, it keeps the next one from the TPU.
  rm -f /tmp/libtpu_lockfile 2>/dev/null || sudo -n rm -f /tmp/libtpu_lockfile
  setsid nohup bash "$code/launch/tpu_worker.sh" run "$@" >>"$files/log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    [ ! -s "$files/pid" ] || return 0
    sleep 0.1
  done
  return 1
}

# Trains, in a session of its own; outlives the ssh connection and signals to the group.
run() {
  local flag workdir='' status=0 outcome
  echo $$ >"$files/pid"
  trap : TERM INT HUP
  for flag in "$@"; do
    case "$flag" in --workdir=*) workdir="${flag#*=}" ;; esac
  done
  cd "$code"
  echo "=== $(date '+%F %T') train $*"
  "$python" -m nfnets_augmult.train "$@" || status=$?
  outcome="$("$python" -c 'import sys
from nfnets_augmult.training import records
print(records.read_status(sys.argv[1])[0])' "$workdir")" || outcome=unknown
  echo "=== $(date '+%F %T') exit status $status, the run is $outcome"
  echo "$status $outcome" >"$files/ended.new"
  mv "$files/ended.new" "$files/ended"
}

stop() {
  local pid deadline=$((SECONDS + $1))
  is_running || return 0
  pid="$(cat "$files/pid")"
  kill -TERM -- "-$pid" 2>/dev/null || true
  while is_running; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      kill -KILL -- "-$pid" 2>/dev/null || true
      return
    fi
    sleep 0.5
  done
}

action="$1"
shift
case "$action" in
  setup) setup ;;
  start) start "$@" ;;
  stop) stop "$1" ;;
  logs) tail -n 20 "$files/log" 2>/dev/null | sed "s/^/$(hostname): /" || true ;;
  status) ;;
  run)
    run "$@"
    exit
    ;;
esac
echo "== $(hostname): $(state)"
