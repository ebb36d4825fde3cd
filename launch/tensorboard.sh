#!/usr/bin/env bash
# Shows a run's curves in a browser on this machine.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tensorboard.sh [--dry-run] WORKDIR [--port N]

Shows WORKDIR/tensorboard (of a run under way, too) at http://localhost:6006, or another port. It
listens on this machine only; from elsewhere: ssh -L 6006:localhost:6006 this-machine
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

workdir='' port=6006 dry=''
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry=yes ;;
    --port)
      if (($# < 2)); then refuse "--port has no value: give one, as in --port 6006"; fi
      whole_number --port "$2" 1
      port=$2
      shift
      ;;
    --port=*)
      whole_number --port "${1#--port=}" 1
      port=${1#--port=}
      ;;
    -*) refuse "option '$1' is unknown: see --help; a folder named so is ./$1" ;;
    *)
      if [[ -n $workdir ]]; then refuse "'$1' is too much: expected one WORKDIR"; fi
      workdir=$1
      ;;
  esac
  shift
done
if [[ -z $workdir ]]; then refuse "no WORKDIR: name the folder of a run, as in runs/digits_ipc1"; fi
case $workdir in
  gs://*) ;;
  *)
    if [[ ! -d $workdir ]]; then
      refuse "WORKDIR '$workdir' is not there: name the folder of a run, as in runs/digits_ipc1"
    fi
    ;;
esac

command=("$venv/bin/tensorboard" --logdir "${workdir%/}/tensorboard" --host localhost --port "$port")
if [[ -n $dry ]]; then
  show "${command[@]}"
  exit 0
fi
ensure_env base
exec "${command[@]}"
