# shellcheck shell=bash
# One call of gcloud, with a limit; sourced, not run. Requires `say`, `show` and the settings of tpu_pod.sh;
# `scratch` is a temporary folder.
# shellcheck disable=SC2154  # those settings

watched_at=0 # when the machines' state was last asked during a call

# Runs gcloud with "$@"; its output is in $scratch/out and $scratch/err. It runs in the background,
# because bash delays a signal until a foreground command has ended. No call lasts longer than its limit:
# one without an answer is ended and fails. While a command runs on the workers, the state of the machines
# is polled, and the call ends if they are gone.
cloud() {
  if [[ -n $dry ]]; then
    : >"$scratch/out"
    show gcloud "$@"
    return 0
  fi
  watched_at=$SECONDS
  call out "$@"
}

# Runs gcloud with the words after $1; its output is in $scratch/$1 and its errors in $scratch/err, or for
# another name than out in $scratch/$1.err.
call() {
  local out=$scratch/$1 err=$scratch/err began=$SECONDS nap=0.05 limit running
  if [[ $1 != out ]]; then err=$scratch/$1.err; fi
  shift
  limit=$(call_limit "$@")
  # New files: a call that was ended may still have a child that writes to the old ones.
  rm -f -- "$out" "$err"
  : >"$err"
  set -m # a process group of its own, so that its ssh ends with it, and Ctrl-C does not reach it
  gcloud "$@" </dev/null >"$out" 2>"$err" &
  running=$!
  set +m
  # In short naps: a `wait` that a signal interrupts returns although its process has not ended.
  while kill -0 "$running" 2>/dev/null; do
    pause_for "$nap"
    case $nap in 0.05) nap=0.08 ;; 0.08) nap=0.13 ;; 0.13) nap=0.2 ;; 0.2) nap=0.4 ;; *) nap=1 ;; esac
    if ((SECONDS - began >= limit)); then
      echo "gcloud did not answer within $limit seconds" >>"$err"
      end_call "$running"
      return 124
    elif [[ "$*" == *tpu-vm\ s[sc]* ]] && gone_meanwhile; then
      echo "the machines are $state" >>"$err"
      end_call "$running"
      return 1
    fi
  done
  wait "$running"
}

# Prints the seconds that a call of gcloud with "$@" may take. FREPO_CALL_SECONDS replaces all limits.
call_limit() {
  local limit=300
  case "$*" in
    *tpu-vm\ ssh\ *tpu_worker.sh\ prepare*) limit=3600 ;;
    *tpu-vm\ ssh\ *tpu_worker.sh\ stop\ *) limit=$((grace + 180)) ;;
    *tpu-vm\ ssh\ *) ;;
    *tpu-vm\ scp\ *) limit=1800 ;;
    *\ delete\ *) limit=900 ;;
    *\ describe\ *) limit=90 ;;
  esac
  printf '%s\n' "${FREPO_CALL_SECONDS:-$limit}"
}

end_call() { # of the process group $1
  kill -s TERM -- "-$1" 2>/dev/null || true
  pause_for 0.5
  kill -s KILL -- "-$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# Ends every call in progress: after a signal, the call that it interrupted.
end_calls() {
  local group
  for group in $(jobs -p); do kill -s TERM -- "-$group" 2>/dev/null || true; done
}

# Whether the machines have gone during a call; asked every `poll` seconds, at least twice a minute.
gone_meanwhile() {
  local every=$((poll < 1 ? 1 : (poll > 30 ? 30 : poll))) found
  if ((SECONDS - watched_at < every)); then return 1; fi
  watched_at=$SECONDS
  if call watch compute tpus tpu-vm describe "$tpu_name" "--zone=$zone" "--project=$project" --quiet \
    '--format=value(state)'; then
    found=''
    read -r found <"$scratch/watch" || true # without a subshell, in which bash could lose a Ctrl-C
  elif grep -qi 'NOT_FOUND\|not found' "$scratch/watch.err"; then
    found=MISSING
  else
    found=UNKNOWN
  fi
  is_gone "$found" && state=$found
}

# Whether a TPU VM in `state` will not become ready again.
gone() { is_gone "$state"; }
is_gone() {
  case $1 in
    PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | FAILED | SUSPENDED | SUSPENDING | MISSING) ;;
    *) return 1 ;;
  esac
}
