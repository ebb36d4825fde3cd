#!/usr/bin/env bash
# What tpu_pod.sh has done on each worker of a TPU pod. It keeps log, exit code and process of the
# attempt under way in the folder `run` beside the code.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_worker.sh COMMAND    (on a TPU VM; launch/tpu_pod.sh calls it)

  prepare                      makes .venv with the TPU packages
  start ID WORKDIR ARGS...     starts `frepo-scale distill ARGS...` detached, as the attempt ID, after
                               launch_setup/setup.sh if that was shipped
  report [ID]                  prints "frepo-worker NUMBER STATE": the exit code of the attempt,
                               running, lost (it ended without a code) or none
  busy                         whether an attempt is running
  log BYTE                     prints the attempt's log from that byte on
  stop SECONDS                 SIGTERM, after so many seconds SIGKILL; then as report
  saved WORKDIR                prints the last saved step, and the finished nets of the final
                               evaluation
  unlock [FILE [DEVICE...]]    removes a stale lock of the TPU, if no process holds a device
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"
run=${root%/*}/run

# The number of this worker in the pod, as JAX reads it, too; else from the host's name.
worker_number() {
  local number
  number=$(curl --silent --fail --max-time 10 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number) ||
    number=$(uname -n | sed -n 's/.*-w-\([0-9][0-9]*\)\(\..*\)*$/\1/p')
  if [[ ! $number =~ ^[0-9]+$ ]]; then
    say "cannot tell which worker $(uname -n) is"
    exit 1
  fi
  printf '%s\n' "$number"
}

# After a reboot the process group of a remembered number is somebody else's.
boot() { cat /proc/sys/kernel/random/boot_id; }

# Whether anything of the attempt's process group is there; sets `group`.
group_lives() {
  local booted=''
  group=''
  if [[ -s $run/pid ]]; then read -r group booted <"$run/pid"; fi
  [[ -n $group && $booted == "$(boot)" ]] && kill -0 -- "-$group" 2>/dev/null
}

busy() { [[ ! -e $run/worker-$number.exit ]] && group_lives; }

report() { # of the attempt $1, or whichever was the last
  local state=none
  if [[ -s $run/id && $(<"$run/id") == "${1:-$(<"$run/id")}" ]]; then
    if [[ -s $run/worker-$number.exit ]]; then
      state=$(<"$run/worker-$number.exit")
    elif group_lives; then
      state=running
    elif [[ -s $run/worker-$number.exit ]]; then # it ended in between
      state=$(<"$run/worker-$number.exit")
    else
      state=lost
    fi
  fi
  printf 'frepo-worker %s %s\n' "$number" "$state"
}

fetch_python() { # the images of TPU VMs come with Python 3.10
  say "no Python 3.11 to 3.13 here: getting one with uv"
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install --quiet 3.12 >&2
  PYTHON=$(python3 -m uv python find 3.12)
}

prepare() {
  if ! venv_works && ! find_python >/dev/null 2>&1; then fetch_python; fi
  ensure_env tpu
  printf 'frepo-worker %s ready\n' "$number"
}

# A killed program leaves its lock, and the next one then finds no TPU. The lock of a living one must
# stay, so it goes only where it can be seen that no process holds a device.
unlock() {
  local lock=${1:-/tmp/libtpu_lockfile} device devices=() sudo=() holders
  if [[ ! -e $lock ]]; then return 0; fi
  shift || true
  if (($# == 0)); then set -- /dev/accel* /dev/vfio/[0-9]*; fi
  for device in "$@"; do if [[ -e $device ]]; then devices+=("$device"); fi; done
  if ((${#devices[@]} == 0)); then
    say "left $lock: there is no TPU device here to ask about"
    return 0
  fi
  # Others' processes are seen by root only; a lock of one's own is of one's own process.
  if ((EUID != 0)) && sudo -n true 2>/dev/null; then sudo=(sudo -n); fi
  if ((EUID != 0)) && ((${#sudo[@]} == 0)) && [[ ! -O $lock ]]; then
    say "left $lock: it belongs to another user, whose processes cannot be seen"
    return 0
  fi
  if command -v fuser >/dev/null; then
    holders=$(${sudo[@]+"${sudo[@]}"} fuser "${devices[@]}" 2>/dev/null || true)
  elif command -v lsof >/dev/null; then
    holders=$(${sudo[@]+"${sudo[@]}"} lsof -t -- "${devices[@]}" 2>/dev/null || true)
  else
    say "left $lock: neither fuser nor lsof is here to tell whether the TPU is in use"
    return 0
  fi
  if [[ -n ${holders//[[:space:]]/} ]]; then
    say "left $lock: the TPU is in use by process ${holders//[[:space:]]/ }"
  else
    ${sudo[@]+"${sudo[@]}"} rm -f -- "$lock"
    say "removed the stale $lock"
  fi
}

# Log and exit code (where there is one yet) to WORKDIR/logs/ID: the machine may go any time.
upload() {
  local files=("$run/worker-$number.log") to
  to=${workdir%/}/logs/$(<"$run/id")
  if [[ -n ${1:-} ]]; then files+=("$1"); fi
  case $workdir in
    gs://*) timeout 120 gcloud storage cp --quiet "${files[@]}" "$to/" >/dev/null 2>&1 ;;
    *) mkdir -p -- "$to" && cp -- "${files[@]}" "$to/" ;;
  esac || printf 'frepo_scale: the log could not be copied to %s\n' "$to"
}

# Runs "$@" until it ends, the log uploaded now and then; sets `code`.
run_child() {
  local child
  "$@" &
  child=$!
  # A stop that came just before it was there to be signalled with its group.
  if [[ -n $stopped ]]; then kill -s TERM "$child" 2>/dev/null || true; fi
  while kill -0 "$child" 2>/dev/null; do
    rest 1
    if ((++seconds % 300 == 0)); then upload || true; fi
  done
  if wait "$child"; then code=0; else code=$?; fi
}

# Runs the script of --setup, if one was shipped; sets `code`, 0 if the program may start.
run_setup() {
  local script=$root/launch_setup/setup.sh
  code=0
  if [[ ! -e $script ]]; then return 0; fi
  run_child bash "$script"
  if [[ -n $stopped ]]; then
    code=143 # it may have ended well, but nothing must start any more
  elif ((code == 2)); then
    say "the setup script ended with 2, wrong input: it is not tried again"
  elif ((code)); then
    say "the setup script failed with $code: counted as a lost attempt"
    code=$SETUP_FAILED
  fi
}

attempt() { # in a session of its own; $1 the workdir, then the program's arguments
  local code seconds=0 stopped=''
  workdir=$1
  shift
  printf '%s %s\n' "$$" "$(boot)" >"$run/pid.new"
  mv -- "$run/pid.new" "$run/pid"
  # A stop signals the whole group, the program included: here it only must not end the waiting.
  trap 'stopped=yes' TERM INT HUP
  # Set already only where the workers are told about each other otherwise.
  if [[ -z ${FREPO_COORDINATOR:-} ]]; then export FREPO_CLUSTER=auto; fi
  cd -- "$root"
  run_setup
  if ((code == 0)); then run_child "$venv/bin/frepo-scale" distill "$@"; fi
  mkdir -p -- "$run/new"
  printf '%s\n' "$code" >"$run/new/worker-$number.exit"
  upload "$run/new/worker-$number.exit" || true # first: with the code known, the machine may go
  mv -- "$run/new/worker-$number.exit" "$run/"
}

start() {
  local id=$1 tenths=0
  shift
  if [[ -s $run/id && $(<"$run/id") == "$id" && -s $run/pid ]]; then # asked twice
    report "$id"
    return 0
  fi
  if busy; then
    say "worker $number is busy with another run"
    exit 3
  fi
  if group_lives; then kill -s KILL -- "-$group" 2>/dev/null || true; fi # leftovers of an ended one
  unlock
  mkdir -p -- "$run"
  rm -f -- "$run/pid" "$run/worker-$number.exit" "$run/new/worker-$number.exit"
  printf '%s\n' "$id" >"$run/id"
  # Detached, or the connection that starts it would last as long, and its end would end it.
  nohup setsid bash "$root/launch/tpu_worker.sh" attempt "$@" \
    </dev/null >"$run/worker-$number.log" 2>&1 &
  until [[ -s $run/pid ]]; do
    if ((tenths++ > 300)); then
      say "worker $number: the program did not start"
      exit 1
    fi
    sleep 0.1
  done
  report "$id"
}

stop() {
  local tenths=0
  if busy; then
    kill -s TERM -- "-$group" 2>/dev/null || true
    while busy && ((tenths++ < $1 * 10)); do sleep 0.1; done
    if busy; then
      say "worker $number does not end: killed"
      kill -s KILL -- "-$group" 2>/dev/null || true
      # Its code, if it got as far as copying that; or that of the kill.
      mv -- "$run/new/worker-$number.exit" "$run/" 2>/dev/null ||
        printf '137\n' >"$run/worker-$number.exit"
    fi
  fi
  report
}

command=${1:---help}
shift || true
case $command in
  -h | --help) usage ;;
  unlock) unlock "$@" ;;
  saved) printf 'frepo-saved %s %s\n' "$(saved_step "$1")" "$(finished_nets "$1")" ;;
  prepare | start | report | busy | attempt | stop)
    number=$(worker_number)
    "$command" "$@"
    ;;
  log)
    number=$(worker_number)
    if [[ -e $run/worker-$number.log ]]; then tail -c "+$1" -- "$run/worker-$number.log"; fi
    ;;
  *) refuse "command '$command' is unknown: see --help" ;;
esac
