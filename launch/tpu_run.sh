# shellcheck shell=bash
# `tpu_pod.sh run`: attempts on all workers until the run is over; sourced, not run.
# shellcheck disable=SC2154  # the settings of tpu_pod.sh

attempt=0
ready=''   # whether the code is there and installed
workers=0  # how many there are
mine=''    # whether the machines were made, or the run on them started, by this command
watchdog=''
unasked=''  # whether what the last attempt saved is not known yet
# shellcheck disable=SC2034  # the next byte of the log to show, in tpu_pod.sh
offset=1

# Whatever ended this command: what it is paid for.
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

# A signal, or the watchdog's: $1 the code to end with, then why.
# shellcheck disable=SC2317,SC2329  # called by the traps
leave() {
  local code=$1
  shift
  trap '' INT TERM HUP USR1
  if [[ -n $waited ]]; then kill "$waited" 2>/dev/null || true; fi
  if ((code != 42)); then patience=3; fi # somebody waits for it
  say "$*"
  if [[ -n $mine && -n $ready ]]; then
    if [[ -n $delete_when_done || $code == 42 ]]; then
      say "stopping the program on every worker"
      stop_all "$grace"
      tell_states
    else
      say "the program goes on: launch/tpu_pod.sh logs follows it, stop ends it"
    fi
  fi
  exit "$code"
}

# Signals this shell after --max-hours, whatever it waits for then.
watch() {
  if ((max_seconds == 0)) || [[ -n $watchdog || -n $dry ]]; then return 0; fi
  (
    trap 'kill "$nap"; exit 0' TERM
    sleep "$max_seconds" &
    nap=$!
    wait "$nap"
    kill -s USR1 "$$"
  ) </dev/null >/dev/null 2>&1 &
  watchdog=$!
}

# Makes sure that the machines are there; 1: they are not, and will not be.
have_pod() {
  local tries=0
  ask_state tpu-vm
  # Machines under maintenance come back.
  while [[ $state == REPAIRING || $state == RESTARTING || $state == STARTING ]] &&
    ((tries++ < patience)); do
    say "$tpu_name: $state"
    rest "$poll"
    ask_state tpu-vm
  done
  if [[ $state == READY ]]; then return 0; fi
  if [[ -z $create ]]; then
    say "$tpu_name is not there (state $state): start it with --create, or look with status"
    return 1
  fi
  if [[ $state == UNKNOWN ]]; then
    cat -- "$scratch/err" >&2 || true
    return 1
  fi
  if gone; then
    ask_state queued-resources
    case $state in
      MISSING | UNKNOWN) ;;
      ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING)
        if [[ -z $mine ]]; then say "$tpu_name was asked for before: waiting for that"; fi
        ;;
      *)
        if [[ -z $recreate ]]; then
          say "$tpu_name is there without machines ($state): delete it, or start with --recreate"
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

# Code and packages to every worker; 1: not done.
set_up() {
  local code=0
  ship || code=$?
  if ((code == 3)); then
    say "a run is under way on $tpu_name: launch/tpu_pod.sh logs follows it, stop ends it"
    exit 2
  elif ((code)); then
    return 1
  fi
  mine=yes
  say "installing on every worker, the first time for some minutes"
  worker all prepare || {
    cat -- "$scratch/out" "$scratch/err" >&2 || true
    return 1
  }
  read_states
  workers=${#states[@]}
  if [[ -z $dry ]] && { ((workers == 0)) || [[ -z ${states[workers - 1]:-} ]]; }; then
    say "$heard workers answered, of whom the last is not number $((workers - 1))"
    return 1
  fi
  ready=yes
  if [[ -n $unasked ]]; then
    note_step
    if ((attempt == 1)); then stalls=0; fi # that was before this command
  fi
}

note_step() { # the second time in vain counts as nothing saved
  local before=$unasked
  unasked=yes
  if ask_step; then
    note_saved "$step" "$nets"
    unasked=''
  elif [[ -n $before ]]; then
    stalls=$((stalls + 1))
  fi
}

set_up_again() { # of many workers one fails now and then: to log in, to install
  ask_state tpu-vm
  if gone; then return 1; fi
  say "trying that once more"
  rest "$poll"
  set_up
}

# Follows attempt $1 until every worker has an exit code: `code` is then the whole's. 1: the
# machines are gone.
follow() {
  local number word all silent=0 ended_at='' codes fatal stops=0 tries=0
  until worker all start "$1" "$workdir" "$recipe" --workdir "$workdir" \
    ${data_dir:+"--gin.DATA_DIR=$data_dir"} ${arguments[@]+"${arguments[@]}"}; do
    cat -- "$scratch/err" >&2 || true
    ask_state tpu-vm
    if gone || ((++tries >= 10)); then return 1; fi
    rest "$poll"
  done
  # shellcheck disable=SC2034
  offset=1
  while :; do
    show_log 0
    worker all report "$1" || true # it fails as a whole where one worker does not answer
    if [[ -n $dry ]]; then
      code=0
      return 0
    fi
    read_states
    if ((heard == 0)); then
      ask_state tpu-vm
      if gone; then return 1; fi
      if ((++silent >= 40)); then
        say "no worker answers any more, though $tpu_name is $state"
        return 1
      fi
      rest "$poll"
      continue
    fi
    silent=0
    all=yes
    codes=()
    fatal=''
    for ((number = 0; number < workers; number++)); do
      word=${states[number]:-running} # one that did not answer is asked again
      if [[ $word == running ]] && ((stops >= 3)); then word=lost; fi
      case $word in
        running) all='' ;;
        lost | none) codes+=(137) ;; # its machine was started anew, or does not answer
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
    # The others find out by themselves when a process died, unless they are busy with something
    # else. What failed will not be started again, or never started: they need not go on.
    if [[ -n $fatal ]] || { [[ -n $ended_at ]] && ((SECONDS - ended_at >= grace)); }; then
      say "a worker ended: stopping the others"
      stop_all 30
      stops=$((stops + 1))
      ended_at=$SECONDS
      continue
    fi
    rest "$poll"
  done
}

show_failure() { # the end of the log of the first worker that ended with $1
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
  patience=30
  # Who piped this elsewhere and left must not keep it from ending what is paid for.
  trap '' PIPE
  trap at_exit EXIT
  trap 'leave 130 "interrupted"' INT
  trap 'leave 143 "terminated"' TERM HUP
  trap 'leave 42 "--max-hours are over"' USR1
  while :; do
    have_pod || exit "$((attempt ? 42 : 1))"
    if ((attempt == 0)); then
      watch
      note_step # what an earlier run saved is no progress of this one
      stalls=0
    fi
    attempt=$((attempt + 1))
    if { [[ -n $ready ]] || set_up || set_up_again; } && follow "$id-$attempt"; then
      if [[ -n $dry ]]; then return 0; fi
      show_failure "$SETUP_FAILED"
    else
      ask_state tpu-vm
      if ! gone; then exit 1; fi
      say "$tpu_name was taken away (now $state)"
      code=143
      ready=''
    fi
    note_step
    say "attempt $attempt: code $code, $(saved_words "$step")${unasked:+ before; now unknown}"
    if ! restartable "$code"; then
      if ((code != 0)); then show_failure "$code"; fi
      exit "$code"
    fi
    if ((stalls >= attempts)); then
      say "giving up: $attempts ends in a row without a new checkpoint; last code $code"
      exit "$code"
    fi
    if [[ -z $ready && -z $recreate ]]; then
      say "the run can go on: the same command with --recreate asks for new machines"
      exit 42
    fi
    rest "$((poll < 5 ? poll : 5))"
  done
}
