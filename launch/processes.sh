#!/usr/bin/env bash
# Runs a command as several processes of one run on this machine.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/processes.sh [options] N -- COMMAND [args...]

Starts COMMAND N times, told about each other by FREPO_COORDINATOR, FREPO_PROCESSES and
FREPO_PROCESS. When one ends with a failure, the others get SIGTERM and, after a grace period,
SIGKILL. Ends with 42 if one ended with 42 or by a signal and none failed otherwise, else with the
worst code. SIGTERM and SIGINT are handed on to all. launch/gpu_node.sh runs it under supervise.sh.

options:
  --gpu-each       process p sees the p-th GPU only (the p-th of CUDA_VISIBLE_DEVICES, if set)
  --logs FOLDER    output to FOLDER/process-P.log, that of process 0 here, too (default: all here)
  --grace SECONDS  from SIGTERM to SIGKILL, once one process ended (default: 120)
  --port PORT      of the coordinator (default: a free one)
  --dry-run        print what would be run, and run nothing
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

gpu_each='' logs='' grace=120 port='' dry='' count=''
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --gpu-each) gpu_each=yes ;;
    --dry-run) dry=yes ;;
    --logs | --grace | --port)
      if (($# < 2)); then refuse "$1 has no value: see --help"; fi
      case $1 in
        --logs) logs=$2 ;;
        --grace)
          whole_number "$1" "$2" 0
          grace=$2
          ;;
        --port)
          whole_number "$1" "$2" 1
          port=$2
          ;;
      esac
      shift
      ;;
    --)
      shift
      break
      ;;
    -*) refuse "option '$1' is unknown: see --help, and put -- before the command" ;;
    *)
      if [[ -n $count ]]; then refuse "'$1' is too much: expected N -- COMMAND [args...]"; fi
      whole_number N "$1" 1
      count=$1
      ;;
  esac
  shift
done
if [[ -z $count ]]; then refuse "no number of processes: expected N -- COMMAND [args...]"; fi
if (($# == 0)); then refuse "no command: expected -- COMMAND [args...] at the end"; fi

gpus=()
if [[ -n $gpu_each ]]; then
  IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((count - 1)))}"
  if ((${#gpus[@]} < count)); then
    refuse "CUDA_VISIBLE_DEVICES names ${#gpus[@]} GPUs for $count processes: name one for each"
  fi
fi

free_port() { # nobody answers there
  local tried
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    tried=$((20000 + RANDOM % 12000)) # below those the system gives to outgoing connections
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$tried") 2>/dev/null; then
      printf '%s\n' "$tried"
      return 0
    fi
  done
  return 1
}
if [[ -z $port ]]; then port=$(free_port); fi

# Killed with SIGKILL, this script can end nobody: left alone the processes would hold the devices and
# the workdir. So the kernel kills them with it, where it can (not on macOS).
guard=()
if setpriv --pdeathsig KILL true 2>/dev/null; then guard=(setpriv --pdeathsig KILL); fi

# Sets `words` to the command of process $1, after what it is told.
words_of() {
  words=(${guard[@]+"${guard[@]}"} env "FREPO_COORDINATOR=127.0.0.1:$port"
    "FREPO_PROCESSES=$count" "FREPO_PROCESS=$1")
  if [[ -n $gpu_each ]]; then words+=("CUDA_VISIBLE_DEVICES=${gpus[$1]}"); fi
}

if [[ -n $dry ]]; then
  for ((p = 0; p < count; p++)); do
    words_of "$p"
    printf '%s &\n' "$(show "${words[@]}" "$@")"
  done
  echo wait
  exit 0
fi

pids=()
codes=()
stopping=''
# shellcheck disable=SC2317,SC2329  # called by the traps
hand_on() {
  local p
  stopping=$1
  for ((p = 0; p < ${#pids[@]}; p++)); do
    if [[ -z ${codes[p]:-} ]]; then kill -s "$1" "${pids[p]}" 2>/dev/null || true; fi
  done
}
trap 'hand_on TERM' TERM HUP
trap 'hand_on INT' INT

tee=''
if [[ -n $logs ]]; then
  mkdir -p -- "$logs"
  # Not in process 0's group, which is killed when that ends, and not ended by Ctrl-C: the last words
  # count.
  exec 4> >(trap '' INT TERM HUP && exec tee -a -- "$logs/process-0.log")
  tee=$!
fi
# Groups of their own, so that one can be killed with all it started, and so that SIGINT is not
# ignored, as it is in background processes without job control.
set -m
for ((p = 0; p < count; p++)); do
  words_of "$p"
  if [[ -z $logs ]]; then
    "${words[@]}" "$@" </dev/null &
  elif ((p)); then
    "${words[@]}" "$@" </dev/null >>"$logs/process-$p.log" 2>&1 &
  else
    "${words[@]}" "$@" </dev/null >&4 2>&1 4>&- &
    exec 4>&-
  fi
  pids+=("$!")
done
set +m
if [[ -n $stopping ]]; then hand_on "$stopping"; fi

left=$count
deadline='' # when the others are killed
while ((left)); do
  for ((p = 0; p < count; p++)); do
    if [[ -n ${codes[p]:-} ]] || kill -0 "${pids[p]}" 2>/dev/null; then continue; fi
    if wait "${pids[p]}"; then codes[p]=0; else codes[p]=$?; fi
    left=$((left - 1))
    kill -s KILL -- "-${pids[p]}" 2>/dev/null || true # what it left behind
    if ((codes[p] == 0)); then continue; fi
    say "process $p ended with ${codes[p]}"
    if [[ -n $logs && $p != 0 ]]; then tail -n 20 -- "$logs/process-$p.log" | sed "s/^/[$p] /" >&2; fi
    if [[ -z $deadline && $left -gt 0 ]]; then
      # They would wait for it in vain, or as long as it takes them to find out.
      deadline=$((SECONDS + grace))
      if [[ -z $stopping ]]; then
        say "stopping the others"
        hand_on TERM
      fi
    fi
  done
  if [[ -n $deadline ]] && ((left && SECONDS >= deadline)); then
    for ((p = 0; p < count; p++)); do
      if [[ -z ${codes[p]:-} ]]; then
        say "process $p does not end: killed"
        kill -s KILL -- "-${pids[p]}" 2>/dev/null || true
      fi
    done
  fi
  if ((left)); then rest 0.2; fi
done
if [[ -n $tee ]]; then wait "$tee" || true; fi # it ends with the last who writes to it
exit "$(group_code "${codes[@]}")"
