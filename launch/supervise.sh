#!/usr/bin/env bash
# Runs a command and restarts it until its run is complete.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/supervise.sh [options] -- COMMAND [args...]

Runs COMMAND and restarts it if it ends with exit code 42 (stopped and saved) or by a signal (128 and
above, except 130). After any other exit code the script ends with the same code.
  launch/supervise.sh -- .venv/bin/frepo-scale distill cifar10_ipc10.gin --workdir runs/a

After three attempts in a row without progress the script ends with the last exit code, and after one
that ended for lack of memory without progress with 1. Progress is a new checkpoint, a net that the
final evaluation has finished, or a part (for example a shard) that `frepo-scale prepare` has finished in
its --out folder. An attempt that ended because another program registered at the coordinator as one of
its processes does not count; after ten of those in a row the script ends, too. Lack of memory is read
from the kernel's count of killed processes. It, and the other program, are also read from standard
error where that is a file.

SIGTERM and SIGINT are forwarded to COMMAND, which is then not restarted.

options:
  --attempts N        attempts in a row without progress before giving up (default: 3)
  --pause SECONDS     pause before a restart (default: 5); 12, 23, ... times as long after attempts
                      without progress, so that a file server, store or network can recover
  --saved-in WORKDIR  the workdir in which checkpoints count as progress (default: the --workdir in
                      COMMAND, otherwise runs/RECIPE of `distill RECIPE`)
  --dry-run           print the command without running it
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

pause=5
workdir='' # or the --out folder of `prepare`
dry=''
attempts=$ATTEMPTS
while (($#)); do
  case $1 in
    --attempts=* | --pause=* | --saved-in=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --attempts | --pause | --saved-in)
      if (($# < 2)); then refuse "$1 has no value: give one, for example $1 3"; fi
      case $1 in
        --attempts)
          whole_number "$1" "$2" 1
          attempts=$2
          ;;
        --pause)
          whole_number "$1" "$2" 0
          pause=$2
          ;;
        --saved-in) workdir=$2 ;;
      esac
      shift 2
      ;;
    --dry-run)
      dry=yes
      shift
      ;;
    --)
      shift
      break
      ;;
    -*) unknown_option "$1" --attempts --pause --saved-in --dry-run --help ;;
    *) refuse "unexpected argument '$1': put -- before the command" ;;
  esac
done
if (($# == 0)); then refuse "no command given: expected -- COMMAND [args...] at the end"; fi
if [[ -z $workdir ]]; then workdir=$(workdir_of "$@"); fi
if [[ -n $dry ]]; then
  show "$@"
  exit 0
fi
if [[ -z $workdir && " $* " == *' prepare '* ]]; then workdir=$(value_of --out "$@"); fi
if [[ -z $workdir ]]; then
  say "progress is unknown without --workdir in the command or --saved-in: at most $attempts attempts"
fi

read_progress() {
  local asked=''
  if [[ -n $workdir ]]; then asked=$(ask_progress "$workdir" "$progress") || asked=''; fi
  note_progress "$asked" "$code"
}

log=$(readlink "/proc/$$/fd/2") || log='' # the file with the output, if it is one
child=''
stopping='' # the signal received
forwarded=''
# shellcheck disable=SC2317,SC2329  # called by the traps
forward() {
  stopping=$1
  if [[ -n $child ]]; then
    forwarded=yes
    kill -s "$1" "$child" 2>/dev/null || true
  fi
}
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'forward TERM' HUP # the terminal was closed: the program saves

# Ends what COMMAND left in its process group, so that it does not hold the devices at the restart.
clear_group() {
  local tenths=0
  if ! kill -s TERM -- "-$1" 2>/dev/null; then return 0; fi
  while ((tenths++ < 300)); do
    if ! kill -0 -- "-$1" 2>/dev/null; then return 0; fi
    pause_for 0.1
  done
  say "killing processes that the command left"
  kill -s KILL -- "-$1" 2>/dev/null || true
}

code=143
read_progress # what exists already is not progress
stalls=0 cuts=0
attempt=0
while [[ -z $stopping ]]; do
  attempt=$((attempt + 1))
  count_oom_kills
  kills=$oom_kills
  begin=1
  if [[ -f $log ]]; then begin=$(($(wc -c <"$log") + 1)); fi
  # Job control gives the command its own process group and does not ignore SIGINT in it. Ctrl-C in a
  # terminal then reaches it exactly once, forwarded; a second one would stop it without saving.
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  if [[ -n $stopping && -z $forwarded ]]; then kill -s "$stopping" "$child" 2>/dev/null || true; fi
  while :; do
    if wait "$child"; then code=0; else code=$?; fi
    if ! kill -0 "$child" 2>/dev/null; then break; fi # otherwise a signal interrupted only the wait
  done
  if wait "$child" 2>/dev/null; then code=0; else code=$?; fi # the code of the command, not of the wait
  clear_group "$child"
  child=''
  if lacked_memory "$code" "$kills"; then code=$OUT_OF_MEMORY; fi
  if [[ -f $log ]]; then code=$(code_of "$code" "$log" "$begin"); fi
  read_progress
  say "attempt $attempt: $(code_words "$code"), $progress_words"
  if [[ -n $stopping ]] || ! restartable "$code"; then break; fi
  if given_up "$attempts" "$code"; then exit "$(end_code "$code" yes)"; fi
  # In steps of one second: a signal just before a sleep does not interrupt it.
  for ((seconds = pause * (11 * (stalls + cuts) + 1); seconds > 0; seconds--)); do
    if [[ -n $stopping ]]; then break; fi
    pause_for 1
  done
done
exit "$(end_code "$code")" # for whoever started this script
