#!/usr/bin/env bash
# Runs a command again for as long as its run goes on.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/supervise.sh [options] -- COMMAND [args...]

Runs COMMAND, and again when it ends with 42 (stopped and saved) or was killed by a signal (128 and
above but 130). Any other end is the last: this ends with the same code. It gives up, with the last
code, when three ends in a row came without a new checkpoint. A net more that the final evaluation
has finished counts as one, and so does a part more (a shard) in the --out of `frepo-scale prepare`.
  launch/supervise.sh -- .venv/bin/frepo-scale distill cifar10_ipc10.gin --workdir runs/a

SIGTERM and SIGINT are handed on to COMMAND, which is then not started again.

options:
  --attempts N        ends in a row without a new checkpoint until it gives up (default: 3)
  --pause SECONDS     before a restart; 12 and 23 times that after ends without progress, which a
                      file server or a store may need to come back (default: 5)
  --saved-in WORKDIR  where the checkpoints are (default: the --workdir among the args, else
                      runs/RECIPE of `distill RECIPE`)
  --dry-run           print what would be run, and run nothing
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

pause=5
workdir=''
out='' # of `prepare`, which has no workdir
dry=''
attempts=$ATTEMPTS
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --attempts | --pause | --saved-in)
      if (($# < 2)); then refuse "$1 has no value: give one, as in $1 3"; fi
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
    *) refuse "option '$1' is unknown: see --help, and put -- before the command" ;;
  esac
done
if (($# == 0)); then refuse "no command: expected -- COMMAND [args...] at the end"; fi
if [[ -z $workdir ]]; then workdir=$(workdir_of "$@"); fi
if [[ -n $dry ]]; then
  show "$@"
  exit 0
fi
if [[ -z $workdir && " $* " == *' prepare '* ]]; then out=$(value_of --out "$@"); fi
if [[ -z $workdir && -z $out ]]; then
  say "no --workdir in the command and no --saved-in: progress is not seen, at most $attempts attempts"
fi

step=-1
finished=0
look() { # how far it is now
  if [[ -n $workdir ]]; then
    step=$(saved_step "$workdir")
    finished=$(finished_nets "$workdir")
  elif [[ -n $out ]]; then
    finished=$(finished_parts "$out")
  fi
}
words() { if [[ -n $out ]]; then printf '%s parts finished' "$finished"; else saved_words "$step"; fi; }

child=''
stopping='' # the signal that came
handed_on=''
# shellcheck disable=SC2317,SC2329  # called by the traps
hand_on() {
  stopping=$1
  if [[ -n $child ]]; then
    handed_on=yes
    kill -s "$1" "$child" 2>/dev/null || true
  fi
}
trap 'hand_on TERM' TERM
trap 'hand_on INT' INT
trap 'hand_on TERM' HUP # the terminal is gone: save, too

# What COMMAND left behind in its process group must not hold the devices when it is started again.
clear_group() {
  local tenths=0
  if ! kill -s TERM -- "-$1" 2>/dev/null; then return 0; fi
  while ((tenths++ < 300)); do
    if ! kill -0 -- "-$1" 2>/dev/null; then return 0; fi
    rest 0.1
  done
  say "killing what the command left behind"
  kill -s KILL -- "-$1" 2>/dev/null || true
}

look
note_saved "$step" "$finished" # what an earlier run saved is no progress of this one
stalls=0
attempt=0
code=143
while [[ -z $stopping ]]; do
  attempt=$((attempt + 1))
  # A process group of its own: Ctrl-C in a terminal must not reach it twice, for the second one
  # stops the program at once; and it must reach it at all, which a background process without job
  # control ignores.
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  if [[ -n $stopping && -z $handed_on ]]; then kill -s "$stopping" "$child" 2>/dev/null || true; fi
  while :; do
    if wait "$child"; then code=0; else code=$?; fi
    if ! kill -0 "$child" 2>/dev/null; then break; fi # else a signal ended the waiting only
  done
  if wait "$child" 2>/dev/null; then code=0; else code=$?; fi # its own, not the waiting's
  clear_group "$child"
  child=''
  look
  say "attempt $attempt: code $code, $(words)"
  if [[ -n $stopping ]] || ! restartable "$code"; then exit "$code"; fi
  note_saved "$step" "$finished"
  if ((stalls >= attempts)); then
    say "giving up: $attempts ends in a row without a new checkpoint" \
      "($(words)); last code $code"
    exit "$code"
  fi
  # In short naps: a signal that comes just before one is noticed after it.
  for ((naps = pause * (11 * stalls + 1); naps > 0; naps--)); do
    if [[ -n $stopping ]]; then break; fi
    rest 1
  done
done
exit "$code"
