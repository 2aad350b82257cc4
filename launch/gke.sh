#!/usr/bin/env bash
# One run on TPU slices of a GKE cluster, as an XPK workload.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
launch/gke.sh --name=NAME --cluster=CLUSTER --type=v5litepod-16 --zone=ZONE
    --project=PROJECT --image=IMAGE [OPTIONS] -- ARGUMENTS

Submits `pav run ARGUMENTS` to a cluster that `xpk cluster create` made, and waits for
it. Kubernetes starts it again when a node is preempted. The same command follows a
workload that is there already, and replaces one that has ended.

ARGUMENTS name a config and a --workdir that all pods see, such as a Filestore that was
attached to the cluster by `xpk storage attach`. IMAGE has pav_jax installed.

  --slices=1
  --spot               take capacity that may be preempted
  --restarts=20        times that Kubernetes may start it again
  --timeout=600        seconds that devices may take to answer
  --down               only delete the workload
  --dry_run            print the commands instead
END
}

OPTIONS="name cluster type zone project image slices spot restarts timeout down dry_run"
name='' cluster='' type='' zone='' project='' image='' slices=1 spot='' restarts=20
timeout=600 down='' dry_run=''
parse_options "$@"
need name cluster zone project

where=("--cluster=$cluster" "--zone=$zone" "--project=$project")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

workload() {
  local verb=$1
  shift
  run xpk workload "$verb" "$@" "${where[@]}"
}

delete() {
  say "deletes the workload $name"
  workload delete "--workload=$name" --force
}

# Whether there is a workload of this name with a status of XPK's.
is_listed() {
  workload list "--filter-by-job=^$name\$" "--filter-by-status=$1" >"$scratch/list" ||
    refuse "xpk cannot list the workloads of $cluster (see above)"
  grep -qE "^${name}[[:space:]]" "$scratch/list"
}

# The last thing that the pod's shell does is to become pav, which so gets SIGTERM.
command_of_pods() {
  local expect
  expect=$(($(devices_of "$type") * slices))
  echo "pav devices --coordinator=auto --expect=$expect --timeout=$timeout &&" \
    "exec $(quoted pav run "${REST[@]}" --coordinator=auto)"
}

create() {
  say "submits the workload $name"
  # 75: another pod stopped. XPK itself restarts after 127 to 255, SIGTERM's 143 among
  # them, and after nothing that the user has to mend. The default coordinator port is
  # not the same in all releases of jax.
  set -- "--workload=$name" "--tpu-type=$type" "--num-slices=$slices" \
    "--docker-image=$image" "--command=$(command_of_pods)" \
    "--max-restarts=$restarts" "--restart-on-exit-codes=$AGAIN" \
    --termination-grace-period-seconds=60 --env=JAX_COORDINATOR_PORT=8476
  [ -z "$spot" ] || set -- "$@" --spot
  if ! workload create "$@" 2>"$scratch/error"; then
    cat "$scratch/error" >&2
    if is_listed EVERYTHING; then delete; fi
    if grep -qiE 'quota|RESOURCE_EXHAUSTED' "$scratch/error"; then
      refuse "no workload: there is no quota for $type in $zone; nothing is left" \
        "behind. Ask for quota, or name another --type or cluster; then run the same" \
        "command"
    fi
    refuse "no workload: xpk could not create $name (see above); nothing is left behind"
  fi
}

if [ -n "$down" ]; then
  delete
  exit
fi
need type image
[ ${#REST[@]} -gt 0 ] || refuse "give the arguments of pav run after --"
[ -n "$(rest_option workdir)" ] || refuse "give --workdir=... after --"
devices_of "$type" >/dev/null
check_name "$name" 40 # XPK's bound

if [ -n "$dry_run" ]; then
  create
  workload list "--wait-for-job-completion=$name"
  exit
fi
if is_listed FINISHED; then
  delete
  create
elif is_listed EVERYTHING; then
  say "$name is there already; follows it"
else
  create
fi
say "waits for $name"
workload list "--wait-for-job-completion=$name" ||
  { say "xpk stopped waiting; the same command goes on"; exit "$AGAIN"; }
if is_listed SUCCESSFUL; then exit; fi
if is_listed FAILED; then
  refuse "$name failed; its log: kubectl logs -l jobset.sigs.k8s.io/jobset-name=$name"
fi
say "$name has not ended; the same command goes on"
exit "$AGAIN"
