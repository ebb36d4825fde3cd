# shellcheck shell=bash
# `tpu_pod.sh run`: repeats attempts on all workers until the run is complete; sourced, not run.
# shellcheck disable=SC2154  # the settings of tpu_pod.sh

attempt=0
ready=''   # whether the code is installed on the workers
workers=0  # the number of workers
mine=''    # whether this command created the machines or started the run on them
watchdog=''
unknown=''  # whether the progress of the last attempt is not known yet
# shellcheck disable=SC2034  # the next byte of the log to show, in tpu_pod.sh
offset=1

# Runs at every exit: deletes the machines, or says that they cost money.
# shellcheck disable=SC2317,SC2329  # called by the trap
at_exit() {
  local code=$?
  trap '' INT TERM HUP USR1
  if [[ -n $watchdog ]]; then kill "$watchdog" 2>/dev/null || true; fi
  if [[ -n $mine && -n $delete_when_done ]]; then
    delete_pod || code=1
  elif [[ -z $dry ]] && { [[ -n $mine ]] || { [[ -n $delete_when_done ]] && ! gone; }; }; then
    say "$tpu_name stays and costs money: launch/tpu_pod.sh delete --tpu-name $tpu_name" \
      "--zone $zone --project $project"
  fi
  rm -rf -- "$scratch"
  exit "$code"
}

# Ends the command after a signal or at --max-hours: $1 is the exit code, then the reason.
# shellcheck disable=SC2317,SC2329  # called by the traps
leave() {
  local code=$1
  shift
  trap '' INT TERM HUP USR1
  end_calls
  if ((code != 42)); then max_tries=3; fi # a user waits for it
  say "$*"
  if [[ -n $mine && -n $ready ]]; then
    if [[ -n $delete_when_done || $code == 42 ]]; then
      say "stopping the program on every worker"
      stop_all "$grace"
      print_states
    else
      say "the program continues: follow it with launch/tpu_pod.sh logs, stop it with stop"
    fi
  fi
  exit "$code"
}

# Sends USR1 to this shell after --max-hours.
watch() {
  if ((max_seconds == 0)) || [[ -n $watchdog || -n $dry ]]; then return 0; fi
  (
    trap 'kill "$sleeping"; exit 0' TERM
    sleep "$max_seconds" &
    sleeping=$!
    wait "$sleeping"
    kill -s USR1 "$$"
  ) </dev/null >/dev/null 2>&1 &
  watchdog=$!
}

# Makes sure that the machines exist; returns 1 if they will not.
have_pod() {
  local tries=0
  ask_state tpu-vm
  # Machines under maintenance become ready again.
  while [[ $state == REPAIRING || $state == RESTARTING || $state == STARTING ]] &&
    ((tries++ < max_tries)); do
    say "$tpu_name: $state"
    pause_for "$poll"
    ask_state tpu-vm
  done
  if [[ $state == READY ]]; then return 0; fi
  if [[ $state == UNKNOWN ]]; then
    cat -- "$scratch/err" >&2 || true
    return 1
  fi
  if [[ -z $create ]]; then
    say "$tpu_name does not exist or is not ready (state $state): create it with --create, or see status"
    return 1
  fi
  if gone; then
    ask_state queued-resources
    case $state in
      MISSING | UNKNOWN) ;;
      ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING)
        if [[ -z $mine ]]; then say "$tpu_name was requested before: waiting for it"; fi
        ;;
      *)
        if [[ -z $recreate ]]; then
          say "$tpu_name exists without machines ($state): delete it, or use --recreate"
          return 1
        fi
        delete_pod || return 1
        ;;
    esac
    if [[ $state == MISSING || -n $dry ]]; then
      mine=yes
      create_pod || return 1
    fi
  fi
  wait_for_pod || return 1
  ready=''
}

# Copies the code and installs the packages on every worker; returns 1 after a failure.
set_up() {
  local code=0
  ship || code=$?
  if ((code == 3)); then
    say "a run is in progress on $tpu_name: follow it with launch/tpu_pod.sh logs, stop it with stop"
    exit 2
  elif ((code)); then
    return 1
  fi
  mine=yes
  if ! worker 0 probe "$workdir"; then
    if ! grep -q '^frepo-probe' "$scratch/out"; then return 1; fi
    sed 's/^frepo-probe //' "$scratch/out" >&2 || true
    say "the machines cannot use $workdir: expected a bucket on which their service account has the roles" \
      "roles/storage.objectUser and roles/storage.legacyBucketReader; see docs/pod-tonight.md"
    exit 2
  fi
  say "installing on every worker; the first time takes some minutes"
  worker all prepare ${latest:+--latest} || {
    cat -- "$scratch/out" "$scratch/err" >&2 || true
    return 1
  }
  read_states
  workers=${#states[@]}
  if [[ -z $dry ]] && { ((workers == 0)) || [[ -z ${states[workers - 1]:-} ]]; }; then
    say "$answered workers answered, but the highest number is not $((answered - 1))"
    return 1
  fi
  ready=yes
  if [[ -n $unknown ]]; then
    note_step
    if ((attempt == 1)); then stalls=0 cuts=0; fi # it was saved before this command
  fi
}

note_step() { # progress that is unknown twice in a row counts as no progress
  local before=$unknown
  unknown=yes
  if ask_run; then
    note_progress "$asked" "${code:-0}"
    unknown=''
  elif [[ -n $before ]]; then
    stalls=$((stalls + 1))
  fi
}

set_up_again() { # among many workers, a login or an installation fails now and then
  ask_state tpu-vm
  if gone; then return 1; fi
  say "trying once more"
  pause_for "$poll"
  set_up
}

# Runs attempt $1 until every worker has an exit code, and sets `code` to their common code. Returns 1
# if the machines do not exist any more.
follow() {
  local number word all silent=0 ended_at='' codes fatal stops=0 tries=0
  until worker all start "$1" "$workdir" "$recipe" --workdir "$workdir" \
    ${data_dir:+"--gin.DATA_DIR=$data_dir"} ${arguments[@]+"${arguments[@]}"}; do
    cat -- "$scratch/err" >&2 || true
    ask_state tpu-vm
    if gone || ((++tries >= 10)); then return 1; fi
    pause_for "$poll"
  done
  # shellcheck disable=SC2034
  offset=1
  while :; do
    show_log 0
    worker all report "$1" || true # it fails if one worker does not answer
    if [[ -n $dry ]]; then
      code=0
      return 0
    fi
    read_states
    if ((answered == 0)); then
      ask_state tpu-vm
      if gone; then return 1; fi
      if ((++silent >= 40)); then
        say "no worker answers, although $tpu_name is $state"
        return 1
      fi
      pause_for "$poll"
      continue
    fi
    silent=0
    all=yes
    codes=()
    fatal=''
    for ((number = 0; number < workers; number++)); do
      word=${states[number]:-running} # a worker that did not answer is polled again
      if [[ $word == running ]] && ((stops >= 3)); then word=lost; fi
      case $word in
        running) all='' ;;
        lost | none) codes+=(137) ;; # its machine was restarted, or does not answer
        *)
          codes+=("$word")
          if ((word == SETUP_FAILED)) || { ((word != 0)) && ! restartable "$word"; }; then fatal=yes; fi
          ;;
      esac
    done
    if [[ -n $all ]]; then
      code=$(group_code "${codes[@]}")
      show_log 0
      return 0
    fi
    if ((${#codes[@]})) && [[ -z $ended_at && $(group_code "${codes[@]}") != 0 ]]; then
      ended_at=$SECONDS
    fi
    # The other processes detect the end of one, except during other work. After a
    # failure, or without a start, there is no reason to wait for that.
    if [[ -n $fatal ]] || { [[ -n $ended_at ]] && ((SECONDS - ended_at >= grace)); }; then
      say "a worker ended: stopping the other workers"
      stop_all 30
      stops=$((stops + 1))
      ended_at=$SECONDS
      continue
    fi
    pause_for "$poll"
  done
}

show_failure() { # prints the end of the log of the first worker that ended with $1
  local number
  for number in "${!states[@]}"; do
    if [[ ${states[number]} == "$1" ]]; then
      say "worker $number ended with $1; the end of its log:"
      if worker "$number" log 1; then tail -n 30 -- "$scratch/out" >&2; fi
      return 0
    fi
  done
}

run_pod() {
  local id
  id=$(date +%Y%m%d-%H%M%S)-$$
  max_tries=30
  trap at_exit EXIT
  trap 'leave 130 "interrupted"' INT
  trap 'leave 143 "terminated"' TERM HUP
  trap 'leave 42 "--max-hours have passed"' USR1
  while :; do
    have_pod || exit "$((attempt ? 42 : 1))"
    if ((attempt == 0)); then
      watch
      note_step # what exists already is not progress
      stalls=0 cuts=0
    fi
    attempt=$((attempt + 1))
    if { [[ -n $ready ]] || set_up || set_up_again; } && follow "$id-$attempt"; then
      if [[ -n $dry ]]; then return 0; fi
      show_failure "$SETUP_FAILED"
    else
      ask_state tpu-vm
      if ! gone; then exit 1; fi
      say "$tpu_name was preempted or deleted (now $state)"
      code=143
      ready=''
    fi
    note_step
    say "attempt $attempt: $(code_words "$code"), $progress_words${unknown:+ before; now unknown}"
    if ! restartable "$code"; then
      if ((code != 0)); then show_failure "$code"; fi
      exit "$code"
    fi
    if ((code == OUT_OF_MEMORY)); then show_failure "$code"; fi
    if given_up "$attempts" "$code"; then
      if [[ -z $ready ]]; then exit 42; fi # without machines: the same command may succeed later
      exit "$(end_code "$code" yes)"
    fi
    if [[ -z $ready && -z $recreate ]]; then
      say "the run can be resumed: the same command with --recreate requests new machines"
      exit 42
    fi
    pause_for "$((poll < 5 ? poll : 5 + 55 * cuts))" # a stranger at the coordinator may leave
  done
}
