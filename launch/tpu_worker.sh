#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each worker of a TPU pod. Log, exit code and process of the current
# attempt are in the folder `run` beside the code.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_worker.sh COMMAND    (on a TPU VM; launch/tpu_pod.sh calls it)

  probe WORKDIR                writes and removes an object or a file in WORKDIR, and reads the
                               description of the bucket
  prepare [--latest]           creates .venv with the TPU packages: those of requirements/tpu.txt, or the
                               newest allowed ones
  start ID WORKDIR ARGS...     runs launch_setup/setup.sh, if it was copied, and then `frepo-scale
                               distill ARGS...`, detached, as the attempt ID
  report [ID]                  prints "frepo-worker NUMBER STATE". STATE is the exit code of the
                               attempt, running, lost (it ended without a code) or none
  busy                         succeeds if an attempt is running
  log BYTE                     prints the attempt's log from that byte
  stop SECONDS                 sends SIGTERM, and SIGKILL after SECONDS; then reports
  progress WORKDIR TOKEN       prints the progress, as `frepo-scale status WORKDIR --since=TOKEN`
  unlock [FILE [DEVICE...]]    removes a stale TPU lock file if no process holds a device
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"
run=${root%/*}/run

# Prints the number of this worker in the pod, from the metadata that JAX also reads, otherwise from the
# host name.
worker_number() {
  local number
  number=$(curl --silent --fail --max-time 10 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number) ||
    number=$(uname -n | sed -n 's/.*-w-\([0-9][0-9]*\)\(\..*\)*$/\1/p')
  if [[ ! $number =~ ^[0-9]+$ ]]; then
    say "cannot determine the worker number of $(uname -n)"
    exit 1
  fi
  printf '%s\n' "$number"
}

# Identifies the boot: after a reboot a recorded process group ID belongs to another process.
boot() { cat /proc/sys/kernel/random/boot_id; }

# Whether a process of the attempt's process group exists; sets `group`.
group_lives() {
  local booted=''
  group=''
  if [[ -s $run/pid ]]; then read -r group booted <"$run/pid"; fi
  [[ -n $group && $booted == "$(boot)" ]] && kill -0 -- "-$group" 2>/dev/null
}

busy() { [[ ! -e $run/worker-$number.exit ]] && group_lives; }

report() { # the attempt $1, or the last one
  local state=none
  if [[ -s $run/id && $(<"$run/id") == "${1:-$(<"$run/id")}" ]]; then
    if [[ -s $run/worker-$number.exit ]]; then
      state=$(<"$run/worker-$number.exit")
    elif group_lives; then
      state=running
    elif [[ -s $run/worker-$number.exit ]]; then # it ended in the meantime
      state=$(<"$run/worker-$number.exit")
    else
      state=lost
    fi
  fi
  printf 'frepo-worker %s %s\n' "$number" "$state"
}

fetch_python() { # the images of TPU VMs contain Python 3.10
  say "no Python 3.11 to 3.13 found: installing one with uv"
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install --quiet 3.12 >&2
  PYTHON=$(python3 -m uv python find 3.12)
}

# Without permission the run would end after the installation and the reading of the data.
probe() {
  local name=${1%/}/.write-test-$$-$number # a run tolerates a file of this name in its workdir
  local bucket=${1#gs://}
  case $1 in
    gs://*)
      if ! command -v gcloud >/dev/null; then return 0; fi
      # Orbax reads the description of the bucket when it removes a checkpoint.
      { printf x | timeout 120 gcloud storage cp --quiet - "$name" &&
        timeout 120 gcloud storage rm --quiet "$name" &&
        timeout 120 gcloud storage buckets describe --quiet "gs://${bucket%%/*}"; } 2>&1 >/dev/null
      ;;
    *) { mkdir -p -- "$1" && printf x >"$name" && rm -- "$name"; } 2>&1 ;;
  esac | sed 's/^/frepo-probe /'
}

prepare() {
  if [[ ${1:-} == --latest ]]; then latest=yes; fi
  if ! venv_works && ! find_python >/dev/null 2>&1; then fetch_python; fi
  ensure_env tpu
  printf 'frepo-worker %s ready\n' "$number"
}

# A killed program leaves its lock file, and the next program then finds no TPU. The lock of a running
# program must stay, so the file is removed only if it is certain that no process holds a device.
unlock() {
  local lock=${1:-/tmp/libtpu_lockfile} device devices=() sudo=() holders
  if [[ ! -e $lock ]]; then return 0; fi
  shift || true
  if (($# == 0)); then set -- /dev/accel* /dev/vfio/[0-9]*; fi
  for device in "$@"; do if [[ -e $device ]]; then devices+=("$device"); fi; done
  if ((${#devices[@]} == 0)); then
    say "kept $lock: there is no TPU device to check"
    return 0
  fi
  # Only root sees other users' processes. A lock file of this user is of a process of this user.
  if ((EUID != 0)) && sudo -n true 2>/dev/null; then sudo=(sudo -n); fi
  if ((EUID != 0)) && ((${#sudo[@]} == 0)) && [[ ! -O $lock ]]; then
    say "kept $lock: it belongs to another user, whose processes are not visible"
    return 0
  fi
  if command -v fuser >/dev/null; then
    holders=$(${sudo[@]+"${sudo[@]}"} fuser "${devices[@]}" 2>/dev/null || true)
  elif command -v lsof >/dev/null; then
    holders=$(${sudo[@]+"${sudo[@]}"} lsof -t -- "${devices[@]}" 2>/dev/null || true)
  else
    say "kept $lock: neither fuser nor lsof is installed to check whether the TPU is in use"
    return 0
  fi
  if [[ -n ${holders//[[:space:]]/} ]]; then
    say "kept $lock: the TPU is in use by process ${holders//[[:space:]]/ }"
  else
    ${sudo[@]+"${sudo[@]}"} rm -f -- "$lock"
    say "removed the stale $lock"
  fi
}

# Copies the log and the file $1, if given, to WORKDIR/logs/ID: the machine may be preempted at any time.
upload() {
  local files=("$run/worker-$number.log") to
  to=${workdir%/}/logs/$(<"$run/id")
  if [[ -n ${1:-} ]]; then files+=("$1"); fi
  case $workdir in
    gs://*) timeout 120 gcloud storage cp --quiet "${files[@]}" "$to/" >/dev/null 2>&1 ;;
    *) mkdir -p -- "$to" && cp -- "${files[@]}" "$to/" ;;
  esac || printf 'frepo_scale: the log could not be copied to %s\n' "$to"
}

# Runs "$@" until it ends, and uploads the log every 300 seconds; sets `code`.
run_child() {
  local child kills
  count_oom_kills
  kills=$oom_kills
  "$@" &
  child=$!
  # A stop just before the start did not reach it with its group.
  if [[ -n $stopped ]]; then kill -s TERM "$child" 2>/dev/null || true; fi
  while kill -0 "$child" 2>/dev/null; do
    pause_for 1
    if ((++seconds % 300 == 0)); then upload || true; fi
  done
  if wait "$child"; then code=0; else code=$?; fi
  if lacked_memory "$code" "$kills"; then code=$OUT_OF_MEMORY; fi
}

# Runs the --setup script, if it was copied; sets `code` to 0 if the program may start.
run_setup() {
  local script=$root/launch_setup/setup.sh
  code=0
  if [[ ! -e $script ]]; then return 0; fi
  run_child bash "$script"
  if [[ -n $stopped ]]; then
    code=143 # whatever its exit code, nothing must start now
  elif ((code == 2)); then
    say "the setup script ended with 2, wrong input: it is not repeated"
  elif ((code)); then
    say "the setup script failed with $code: this attempt counts as lost"
    code=$SETUP_FAILED
  fi
}

attempt() { # in its own session; $1: the workdir, then the program's arguments
  local code seconds=0 stopped=''
  workdir=$1
  shift
  printf '%s %s\n' "$$" "$(boot)" >"$run/pid.new"
  mv -- "$run/pid.new" "$run/pid"
  # A stop signals the whole group, including the program. Here it must only not end the wait.
  trap 'stopped=yes' TERM INT HUP
  # It is set only if the workers find each other in another way.
  if [[ -z ${FREPO_COORDINATOR:-} ]]; then export FREPO_CLUSTER=auto; fi
  cd -- "$root"
  run_setup
  if ((code == 0)); then
    run_child "$venv/bin/frepo-scale" distill "$@"
    code=$(code_of "$code" "$run/worker-$number.log" 1)
  fi
  mkdir -p -- "$run/new"
  printf '%s\n' "$code" >"$run/new/worker-$number.exit"
  upload "$run/new/worker-$number.exit" || true # before it is reported: then the machine may be deleted
  mv -- "$run/new/worker-$number.exit" "$run/"
}

start() {
  local id=$1 tenths=0
  shift
  if [[ -s $run/id && $(<"$run/id") == "$id" && -s $run/pid ]]; then # a repeated request
    report "$id"
    return 0
  fi
  if busy; then
    say "worker $number is running another run"
    exit 3
  fi
  if group_lives; then kill -s KILL -- "-$group" 2>/dev/null || true; fi # left by an ended attempt
  unlock
  mkdir -p -- "$run"
  rm -f -- "$run/pid" "$run/worker-$number.exit" "$run/new/worker-$number.exit"
  printf '%s\n' "$id" >"$run/id"
  # Detached, because otherwise the connection would stay open, and its end would end the program.
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
      say "worker $number did not end in time: killing it"
      kill -s KILL -- "-$group" 2>/dev/null || true
      # Its exit code, if it was already written; otherwise that of the kill.
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
  progress) printf 'frepo-progress %s\n' "$(ask_progress "$1" "$2")" ;;
  probe | prepare | start | report | busy | attempt | stop)
    number=$(worker_number)
    "$command" "$@"
    ;;
  log)
    number=$(worker_number)
    if [[ -e $run/worker-$number.log ]]; then tail -c "+$1" -- "$run/worker-$number.log"; fi
    ;;
  *) refuse "unknown command '$command': see --help" ;;
esac
