#!/usr/bin/env bash
# One run on a TPU VM or a pod slice, made by the plain create command.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
launch/tpu_vm.sh --name=NAME --type=v5litepod-16 --zone=ZONE --project=PROJECT
    [OPTIONS] -- ARGUMENTS

Asks for a TPU, copies this checkout to all its workers, checks their devices, starts
`pav run ARGUMENTS` on all of them, follows its log, and deletes the TPU. The same
command goes on from wherever an earlier one stopped. Where there is no capacity it asks
again until there is; a TPU that is preempted is made again, up to --attempts times.

ARGUMENTS name a config and a --workdir. With more than one worker, and to survive
preemption, that is a folder below --mount.

  --nfs=SERVER:/SHARE  mounted at --mount on every worker
  --mount=/mnt/pav
  --spot               take capacity that may be preempted
  --runtime=VERSION    of the TPU's software; by default the newest for its type
  --fetch=DIR          copy the workdir's report to this folder at the end
  --keep               do not delete the TPU at the end
  --down               only delete the TPU
  --attempts=3         TPUs that may be lost, one after the other
  --timeout=300        seconds that devices may take to answer
  --poll=30            seconds between looks at a TPU or a run, or asking for a TPU
  --dry_run            print the commands instead
END
}

OPTIONS="name type zone project nfs mount spot runtime fetch keep down attempts timeout
  poll dry_run"
OPTIONS=$(echo "$OPTIONS" | tr '\n' ' ')
name='' type='' zone='' project='' nfs='' mount=/mnt/pav spot='' runtime='' fetch=''
keep='' down='' attempts=3 timeout=300 poll=30 dry_run=''
parse_options "$@"
need name zone project

# The default port is not the same in all releases of jax.
PORT=JAX_COORDINATOR_PORT=8476
where=("--zone=$zone" "--project=$project")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'say "the TPU and its run go on; the same command follows it, --down deletes it"
  exit 130' INT

tpus() { run gcloud compute tpus "$@" "${where[@]}"; }

# The state of the TPU: READY and so on, or ABSENT, or UNKNOWN; in a dry run, $1.
state() {
  if [ -n "$dry_run" ]; then
    tpus tpu-vm describe "$name" '--format=value(state)'
    echo "$1"
  elif tpus tpu-vm describe "$name" '--format=value(state)' \
    >"$scratch/state" 2>"$scratch/error"; then
    cat "$scratch/state"
  elif grep -qiE 'not.?found' "$scratch/error"; then
    echo ABSENT
  else
    cat "$scratch/error" >&2
    echo UNKNOWN
  fi
}

delete() {
  say "deletes $name"
  tpus tpu-vm delete "$name" --quiet
}

# What to do about gcloud's word on why there is no TPU, which goes to stderr first.
explain() {
  cat "$scratch/why" >&2
  if grep -qiE 'quota|RESOURCE_EXHAUSTED' "$scratch/why"; then
    refuse "no TPU: the project has no quota for $type in $zone; nothing is left" \
      "behind. Ask for quota (console: IAM & Admin > Quotas, TPU API), or name another" \
      "--type or --zone; then run the same command"
  fi
  refuse "no TPU: gcloud could not create $name (see above); nothing is left behind"
}

create() {
  local version=$runtime
  made=1
  if [ -z "$version" ]; then
    case $type in
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) version=tpu-ubuntu2204-base ;;
    esac
  fi
  say "asks for a $type called $name"
  set -- tpu-vm create "$name" "--accelerator-type=$type" "--version=$version"
  [ -z "$spot" ] || set -- "$@" --spot
  if ! tpus "$@" 2>"$scratch/why"; then
    case $(state ABSENT) in
      ABSENT) ;;
      *) delete ;;
    esac
    grep -qiE 'no (more )?capacity' "$scratch/why" || explain
    say "there is no $type in $zone at this time; waits"
  fi
}

# Waits until there is a TPU; returns 1 if it was lost on the way, and deleted.
bring_up() {
  local now
  now=$(state ABSENT)
  while true; do
    case $now in
      READY) return ;;
      ABSENT) create ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING)
        say "$name is $now: it was preempted, or stopped from outside"
        delete
        return 1
        ;;
      *) say "$name is $now; waits" ;;
    esac
    [ -n "$dry_run" ] || sleep "$poll"
    now=$(state READY)
  done
}

# A command on one worker or on all.
on() {
  tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2"
}

copy() {
  local archive=$scratch/pav_jax.tar.gz tries
  for tries in 1 2 3 4 5; do # a new TPU lets nobody in for a moment
    if on all true; then break; fi
    [ "$tries" -lt 5 ] || return 1
    sleep "$poll"
  done
  [ -z "$dry_run" ] || archive=pav_jax.tar.gz
  say "copies this checkout"
  # Each step by itself, since bash's -e is off in what "if" asks.
  (cd "$here/.." && run tar --create --gzip "--file=$archive" \
    --exclude=.git --exclude='.venv*' --exclude=runs .) || return 1
  tpus tpu-vm scp "$archive" "$name:pav_jax.tar.gz" --worker=all || return 1
  local steps="mkdir -p pav_jax && tar xzf pav_jax.tar.gz -C pav_jax && cd pav_jax"
  steps="$steps && python3 -m pip install --quiet --user uv"
  steps="$steps && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv"
  steps="$steps && python3 -m uv pip install --quiet --python .venv -e '.[tpu]'$bucket"
  steps="$steps -c requirements.lock"
  if [ -n "$nfs" ]; then
    steps="$steps && sudo mkdir -p $mount && { mountpoint -q $mount ||"
    steps="$steps { sudo apt-get install -qq -y nfs-common &&"
    steps="$steps sudo mount -t nfs $nfs $mount && sudo chmod 777 $mount; }; }"
  fi
  on all "$steps"
}

# Ends on a worker what is left of an earlier run, which would hold the devices.
# shellcheck disable=SC2016 # the worker expands it
END_OLD='cd pav_jax && if [ -f run.pid ]; then old=$(cat run.pid); '\
'kill -TERM -- "-$old" 2>/dev/null; for _ in $(seq 40); do '\
'kill -0 -- "-$old" 2>/dev/null || break; sleep 1; done; '\
'kill -KILL -- "-$old" 2>/dev/null; fi; rm -f run.pid run.code'

# Starts the run on all workers, so that it goes on when this machine does not. What runs
# there has nothing of ssh's open, which would wait for its end.
start() {
  local expect job
  expect=$(devices_of "$type")
  on all "$END_OLD" || return 1
  say "checks that there are $expect devices"
  on all "cd pav_jax && $PORT .venv/bin/pav devices --coordinator=auto\
 --expect=$expect --timeout=$timeout" || return 1
  say "starts pav run on all workers"
  job="$(quoted .venv/bin/pav run "${REST[@]}" --coordinator=auto); echo \$? >run.code"
  on all "cd pav_jax && { $PORT nohup setsid sh -c $(quoted "$job")\
 >run.log 2>&1 </dev/null & echo \$! >run.pid; }"
}

# Prints on worker 0 what became of the run: none, running, lost, or its exit code.
# shellcheck disable=SC2016 # the worker expands it
LOOK='cd pav_jax 2>/dev/null || { echo none; exit; }; '\
'if [ -f run.code ]; then cat run.code; elif [ ! -f run.pid ]; then echo none; '\
'elif kill -0 "$(cat run.pid)" 2>/dev/null; then echo running; else echo lost; fi'

# The same, here; or unreachable. In a dry run, what is given.
progress() {
  if [ -n "$dry_run" ]; then
    on 0 "$LOOK"
    echo "$1"
  else
    on 0 "$LOOK" 2>"$scratch/error" | tail -n 1 || echo unreachable
  fi
}

# Whether a run is at work. One look may fail; where all do, and the TPU is there, there may
# be a run, so nothing is done to it.
at_work() {
  local now tries
  for tries in 1 2 3 4 5; do
    now=$(progress none)
    if [ "$now" != unreachable ] || [ "$tries" -eq 5 ]; then break; fi
    sleep "$poll"
  done
  if [ "$now" = unreachable ] && [ "$(state READY)" = READY ]; then
    refuse "$name is READY and lets nobody in; it may have a run at work, so it is kept." \
      "The same command goes on, --down deletes it"
  fi
  [ "$now" = running ]
}

# Follows a run until it ends; returns its exit code, or AGAIN if the TPU went away.
follow() {
  local now shown=0
  while true; do
    now=$(progress 0)
    case $now in
      running | unreachable) ;;
      none | lost) return "$AGAIN" ;;
      *)
        on 0 "tail -n 20 pav_jax/run.log" || true
        return "$now"
        ;;
    esac
    if [ "$now" = running ]; then
      on 0 "tail -n +$((shown + 1)) pav_jax/run.log" >"$scratch/log" 2>/dev/null || true
      cat "$scratch/log"
      shown=$((shown + $(wc -l <"$scratch/log")))
    elif [ "$(state READY)" != READY ]; then
      say "$name was preempted"
      return "$AGAIN"
    fi
    sleep "$poll"
  done
}

if [ -n "$down" ]; then
  delete
  exit
fi
need type
[ ${#REST[@]} -gt 0 ] || refuse "give the arguments of pav run after --"
workdir=$(rest_option workdir)
[ -n "$workdir" ] || refuse "give --workdir=... after --"
report=$workdir/report
devices_of "$type" >/dev/null
check_name "$name" 61 # the bound of a TPU's node
bucket=''
case $workdir in
  gs://*) bucket=' gcsfs' ;;
  s3://*) bucket=' s3fs' ;;
esac
[ -z "$fetch" ] || case $workdir in
  *://*) refuse "--fetch is for a workdir on the TPU; $workdir/report is in the bucket" ;;
  /*) ;;
  *) report=pav_jax/$workdir/report ;; # where the run starts
esac
workers=$(workers_of "$type")
if [ "$workers" -gt 1 ]; then
  [ -n "$nfs" ] ||
    refuse "$type has $workers workers, which need a folder that all of them see: give" \
      "--nfs=SERVER:/SHARE"
  case $workdir in
    "$mount"/*) ;;
    *) refuse "--workdir=$workdir has to be below --mount=$mount, which all $workers" \
      "workers of $type see" ;;
  esac
fi

code=$AGAIN
for ((tried = 1; tried <= attempts; tried++)); do
  [ $tried -eq 1 ] || say "attempt $tried of $attempts"
  made=''
  bring_up || continue
  if [ -z "$made" ] && at_work; then
    say "a run is at work there already; follows it"
  elif ! { copy && start; } && ! at_work; then
    if [ "$(state READY)" = READY ]; then
      [ -n "$keep" ] || delete
      refuse "the run could not be started (see above)"
    fi
    say "$name was lost before the run had started"
    continue
  fi
  code=0
  follow || code=$?
  is_again $code || break
  say "the run was stopped from outside (exit code $code)"
done

if [ $code -eq 0 ] && [ -n "$fetch" ]; then
  run mkdir -p "$fetch"
  tpus tpu-vm scp "$name:$report" "$fetch" --worker=0 --recurse ||
    refuse "the run is done, but its report could not be fetched (see above). $name is" \
      "kept: fetch $report from it, then give --down"
fi
[ -n "$keep" ] || case $(state READY) in
  ABSENT) ;;
  *) delete ;;
esac
exit $code
