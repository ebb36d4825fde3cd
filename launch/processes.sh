#!/usr/bin/env bash
# Runs a command as several processes of one run, on this machine.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/processes.sh [options] N -- COMMAND [args...]

Starts COMMAND N times as the processes of one run, which find each other by FREPO_COORDINATOR,
FREPO_PROCESSES and FREPO_PROCESS. If one process fails, the others get SIGTERM and, after a grace
period, SIGKILL. SIGTERM and SIGINT are forwarded to all processes. launch/gpu_node.sh runs this script
under launch/supervise.sh.

The exit code is 0 if all processes ended with 0. If a process failed (1, 2, ...), it is the largest
exit code of a failure; otherwise 130 if a process was stopped by Ctrl-C; otherwise 202, if a process
ended for lack of memory (the kernel counts that it kills; the logs, --logs, say std::bad_alloc);
otherwise 201, if the logs say that another program registered at the coordinator as one of the
processes; otherwise 42, if a process ended with 42 or by a signal.

options:
  --gpu-each       process p uses only the p-th GPU (the p-th of CUDA_VISIBLE_DEVICES, if set)
  --logs FOLDER    write output to FOLDER/process-P.log, and the output of process 0 also here
                   (default: all output here)
  --grace SECONDS  time for the other processes from the first end with a code other than 0, when
                   they get SIGTERM, to SIGKILL (default: 120)
  --port PORT      port of the coordinator (default: a free port)
  --dry-run        print the commands without running them
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

gpu_each='' logs='' grace=120 port='' dry='' count=''
while (($#)); do
  case $1 in
    --logs=* | --grace=* | --port=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --gpu-each) gpu_each=yes ;;
    --dry-run) dry=yes ;;
    --logs | --grace | --port)
      if (($# < 2)); then refuse "$1 has no value: see --help"; fi
      case $1 in
        --logs)
          if [[ -z $2 ]]; then refuse "--logs is empty: expected a folder, for example --logs runs/a/logs"; fi
          logs=$2
          ;;
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
    -*) unknown_option "$1" --gpu-each --logs --grace --port --dry-run --help ;;
    *)
      if [[ -n $count ]]; then refuse "unexpected argument '$1': expected N -- COMMAND [args...]"; fi
      whole_number N "$1" 1
      count=$1
      ;;
  esac
  shift
done
if [[ -z $count ]]; then refuse "no number of processes given: expected N -- COMMAND [args...]"; fi
if (($# == 0)); then refuse "no command given: expected -- COMMAND [args...] at the end"; fi

gpus=()
if [[ -n $gpu_each ]]; then
  IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((count - 1)))}"
  if ((${#gpus[@]} < count)); then
    refuse "CUDA_VISIBLE_DEVICES names ${#gpus[@]} GPUs for $count processes: name one for each"
  fi
fi

free_port() { # a port at which nothing listens
  local tried
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    tried=$((20000 + RANDOM % 12000)) # below the ports of outgoing connections
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$tried") 2>/dev/null; then
      printf '%s\n' "$tried"
      return 0
    fi
  done
  return 1
}
if [[ -z $port ]]; then port=$(free_port); fi

# If this script is killed with SIGKILL, it cannot end its processes, which would continue to hold the
# devices and the workdir. On Linux the kernel then kills them too.
guard=()
if setpriv --pdeathsig KILL true 2>/dev/null; then guard=(setpriv --pdeathsig KILL); fi

# Sets `words` to the prefix of the command of process $1: its guard and its environment.
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
begins=() # of the logs, in bytes
stopping=''
# shellcheck disable=SC2317,SC2329  # called by the traps
forward() {
  local p
  stopping=$1
  for ((p = 0; p < ${#pids[@]}; p++)); do
    if [[ -z ${codes[p]:-} ]]; then kill -s "$1" "${pids[p]}" 2>/dev/null || true; fi
  done
}
trap 'forward TERM' TERM HUP
trap 'forward INT' INT

tee=''
if [[ -n $logs ]]; then
  mkdir -p -- "$logs"
  # Outside of process 0's group, which is killed when that process ends, and not ended by Ctrl-C, so
  # that the last lines are written.
  exec 4> >(trap '' INT TERM HUP && exec tee -a -- "$logs/process-0.log")
  tee=$!
fi
count_oom_kills
kills=$oom_kills
# Job control gives each process its own process group, which can be killed as a whole, and does not
# ignore SIGINT in it.
set -m
for ((p = 0; p < count; p++)); do
  words_of "$p"
  if [[ -n $logs ]]; then
    touch -- "$logs/process-$p.log"
    begins+=("$(($(wc -c <"$logs/process-$p.log") + 1))")
  fi
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
if [[ -n $stopping ]]; then forward "$stopping"; fi

left=$count
deadline='' # when the remaining processes are killed
while ((left)); do
  for ((p = 0; p < count; p++)); do
    if [[ -n ${codes[p]:-} ]] || kill -0 "${pids[p]}" 2>/dev/null; then continue; fi
    if wait "${pids[p]}"; then codes[p]=0; else codes[p]=$?; fi
    left=$((left - 1))
    kill -s KILL -- "-${pids[p]}" 2>/dev/null || true # what it left in its group
    if ((codes[p] == 0)); then continue; fi
    say "process $p ended with ${codes[p]}"
    if lacked_memory "${codes[p]}" "$kills"; then
      say "the kernel killed it for lack of memory"
      codes[p]=$OUT_OF_MEMORY
    fi
    if [[ -n $logs && $p != 0 ]]; then tail -n 20 -- "$logs/process-$p.log" | sed "s/^/[$p] /" >&2; fi
    if [[ -z $deadline && $left -gt 0 ]]; then
      # They would wait for the ended process until their heartbeat detects its end.
      deadline=$((SECONDS + grace))
      if [[ -z $stopping ]]; then
        say "stopping the other processes"
        forward TERM
      fi
    fi
  done
  if [[ -n $deadline ]] && ((left && SECONDS >= deadline)); then
    for ((p = 0; p < count; p++)); do
      if [[ -z ${codes[p]:-} ]]; then
        say "process $p did not end in time: killing it"
        kill -s KILL -- "-${pids[p]}" 2>/dev/null || true
      fi
    done
  fi
  if ((left)); then pause_for 0.2; fi
done
if [[ -n $tee ]]; then wait "$tee" || true; fi # it ends with its last writer
if [[ -n $logs ]]; then
  for ((p = 0; p < count; p++)); do
    codes[p]=$(code_of "${codes[p]}" "$logs/process-$p.log" "${begins[p]}")
  done
fi
exit "$(group_code "${codes[@]}")"
