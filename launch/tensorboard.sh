#!/usr/bin/env bash
# Serves a run's metrics to a browser on this machine with TensorBoard.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tensorboard.sh [--dry-run] WORKDIR [--port N]

Serves the metrics in WORKDIR/tensorboard, also of a run in progress, at http://localhost:6006, or at
another port. It listens on this machine only. From another machine: ssh -L 6006:localhost:6006 HOST
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"

port=6006 dry=''
flags=(-h --help --dry-run) valued=(--port)
set_option() {
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry=yes ;;
    --port)
      whole_number --port "$2" 1
      port=$2
      ;;
  esac
}
read_options "$@"
workdir=$recipe
if ((${#arguments[@]})); then refuse "unexpected argument '${arguments[0]}': expected one WORKDIR"; fi
if [[ -z $workdir ]]; then refuse "no WORKDIR: expected the folder of a run, for example runs/digits_ipc1"; fi
case $workdir in
  gs://*) ;;
  *)
    if [[ ! -d $workdir ]]; then
      refuse "WORKDIR '$workdir' does not exist: expected the folder of a run, for example runs/digits_ipc1"
    fi
    ;;
esac

command=("$venv/bin/tensorboard" --logdir "${workdir%/}/tensorboard" --host localhost --port "$port")
if [[ -n $dry ]]; then
  show "${command[@]}"
  exit 0
fi
ensure_env base
# On an object store it would take a listing to know whether there is a profile.
if [[ $workdir == gs://* || -d ${workdir%/}/tensorboard/plugins/profile ]] &&
  ! "$venv/bin/python" -I -c 'import xprof' 2>/dev/null; then
  say "installing xprof into .venv, to show profiles; this takes half a minute"
  # Without it TensorBoard shows everything else.
  pip=("$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check)
  (cd -- "$root" && "${pip[@]}" -e '.[profile]' >&2) ||
    say "xprof could not be installed: profiles are not shown"
fi
exec "${command[@]}"
