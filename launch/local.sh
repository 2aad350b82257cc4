#!/usr/bin/env bash
# Several processes of one run on this machine, joined by jax.distributed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
launch/local.sh [--processes=2] [--port=8476] [--attempts=3] [--dry_run] -- ARGUMENTS

Starts that many `pav run ARGUMENTS`, such as --config=... and --workdir=.... When one
stops, so do the others. If it was stopped from outside, all start once more, up to
--attempts times. Exits as the process that stopped first.

PAV names the command to start; else it is .venv/bin/pav, or pav.
END
}

OPTIONS="processes port attempts dry_run"
processes=2 port=8476 attempts=3 dry_run=
parse_options "$@"
[ ${#REST[@]} -gt 0 ] || refuse "give the arguments of pav run after --"
case $processes$port$attempts in
  *[!0-9]*) refuse "--processes, --port and --attempts are numbers" ;;
esac

pav=${PAV:-}
if [ -z "$pav" ]; then
  pav=pav
  [ -x "$here/../.venv/bin/pav" ] && pav=$here/../.venv/bin/pav
fi

pids=()

# Ends what is left: politely, and after half a minute not so.
stop_all() {
  local pid waited=0
  for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done
  while any_alive && [ $waited -lt 150 ]; do
    sleep 0.2
    waited=$((waited + 1))
  done
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL "$pid" 2>/dev/null || true; done
}

any_alive() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    if kill -0 "$pid" 2>/dev/null; then return 0; fi
  done
  return 1
}

# Runs all processes once; returns the first exit code that is not 0.
attempt() {
  local index pid left code=0
  pids=()
  for ((index = 0; index < processes; index++)); do
    set -- "$pav" run "${REST[@]}"
    [ "$processes" -eq 1 ] || set -- "$@" "--coordinator=127.0.0.1:$port" \
      "--num_processes=$processes" "--process_id=$index"
    if [ -n "$dry_run" ]; then
      run "$@"
    else
      "$@" 3>&- &
      pids+=($!)
    fi
  done
  while [ ${#pids[@]} -gt 0 ]; do
    left=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        left+=("$pid")
      else
        wait "$pid" || code=$?
        [ $code -eq 0 ] || break
      fi
    done
    if [ $code -ne 0 ]; then
      stop_all
      return $code
    fi
    pids=(${left[@]+"${left[@]}"})
    sleep 0.2
  done
}

trap 'trap "" TERM; stop_all; exit 143' TERM
trap 'trap "" INT; stop_all; exit 130' INT

for ((tried = 1; ; tried++)); do
  code=0
  attempt || code=$?
  if ! is_again $code || [ $tried -ge "$attempts" ]; then
    exit $code
  fi
  say "stopped with exit code $code; attempt $((tried + 1)) of $attempts goes on"
done
