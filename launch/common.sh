# What the launchers share; they source this file. Plain bash, as old as macOS's 3.2.
# shellcheck shell=bash

# Exit codes: as `pav run`'s (pav_jax/distributed/signals.py).
readonly USER_ERROR=2 # the same command would fail again
# shellcheck disable=SC2034 # the launchers use it
readonly AGAIN=75 # stopped from outside; the same command goes on from there

exec 3>&1 # where commands are printed, from within $(...) too

say() { echo "${0##*/}: $*" >&2; }

# Prints one paragraph and stops, since the user has to mend something.
refuse() {
  say "$*"
  exit "$USER_ERROR"
}

# Whether what exited so may succeed if it is run once more: SIGTERM, a lost peer, and
# what jax (SIGABRT) or the system (SIGKILL) do to a process in such a case.
is_again() { case $1 in 75 | 134 | 137 | 143) true ;; *) false ;; esac; }

# Sets the variables that --name=value arguments name; a bare --name means 1. What is
# not among the names in OPTIONS is an error. Arguments after -- are put into REST.
parse_options() {
  local argument option
  while [ $# -gt 0 ]; do
    argument=$1
    shift
    case $argument in
      --) break ;;
      --help | -h)
        usage
        exit 0
        ;;
      --*) ;;
      *) refuse "'$argument' is not understood; see --help" ;;
    esac
    option=${argument%%=*}
    option=${option#--}
    case " $OPTIONS " in
      *" $option "*) ;;
      *) refuse "there is no option --$option; see --help" ;;
    esac
    case $argument in
      *=*) printf -v "$option" '%s' "${argument#*=}" ;;
      *) printf -v "$option" 1 ;;
    esac
  done
  REST=("$@")
}

# Stops unless each of the named options has a value.
need() {
  local option
  for option in "$@"; do
    [ -n "${!option}" ] || refuse "--$option=... is missing; see --help"
  done
}

# A command line as a shell would read it.
quoted() {
  local word line=""
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line="$line $word"
  done
  echo "${line# }"
}

# Runs a command, or with --dry_run prints it.
run() {
  if [ -n "${dry_run:-}" ]; then
    quoted "$@" >&3
  else
    "$@" 3>&-
  fi
}

# The value of --NAME=... among the arguments of pav run; the last one counts.
rest_option() {
  local argument value=""
  for argument in ${REST[@]+"${REST[@]}"}; do
    case $argument in "--$1="*) value=${argument#*=} ;; esac
  done
  echo "$value"
}

# Devices that jax sees on a slice of a type: chips, but cores where a name counts those.
devices_of() {
  local size=${1##*-}
  case $1 in
    v5litepod-* | v6e-* | v2-* | v3-*) ;;
    v4-* | v5p-*) size=$((size / 2)) ;;
    *) refuse "--type=$1 is none of v5litepod-N, v6e-N, v5p-N, v4-N, v3-N, v2-N" ;;
  esac
  echo "$size"
}

# Machines of a slice: each has four chips, but small slices of some types are one machine.
workers_of() {
  local size=${1##*-}
  case $1 in
    v5litepod-* | v6e-*) if [ "$size" -le 8 ]; then size=1; else size=$((size / 4)); fi ;;
    *) if [ "$size" -le 8 ]; then size=1; else size=$((size / 8)); fi ;;
  esac
  echo "$size"
}

# Stops at a name that clouds refuse: they want a letter first, and no more than so many
# of a-z, 0-9 and -: check_name NAME MOST.
check_name() {
  local name=$1 most=$2
  case $name in
    *[!a-z0-9-]* | [!a-z]* | *-)
      refuse "--name=$name must begin with a letter, hold only a-z, 0-9 and -, and not" \
        "end in -"
      ;;
  esac
  [ ${#name} -le "$most" ] ||
    refuse "--name=$name has ${#name} characters; at most $most are allowed"
}
