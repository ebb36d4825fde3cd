# shellcheck shell=bash
# The restart policy of all launch scripts; sourced, not run.
#
# Exit codes of the program: 0 done, 42 stopped and saved, 1 failed, 2 wrong input, 130 stopped by the
# user, 128 and above ended by a signal (134: JAX ended the process because another process died).
# Requires `say` and `venv` of python_env.sh.

# A run is given up after this many attempts in a row without progress. A new checkpoint is progress,
# and so is a net that the final evaluation has finished.
# shellcheck disable=SC2034  # for those who source this
ATTEMPTS=3

# JAX aborts all processes of a run if another program registers at the coordinator under the number of one
# of them (decision record 45), and says so in their logs. Then CUT_OFF replaces the exit code 134. It is not
# the code of any signal. Such an attempt is none without progress: the run is given up after CUTS of them in
# a row; with the growing pauses of supervise.sh that is after 40 minutes.
CUT_OFF=201
CUTS=10

# A process that the kernel killed for lack of memory, or that ended because memory could not be allocated
# (134, std::bad_alloc). It is not the code of any signal. A restart at the same place would end in the same
# way, so the run is given up if there was no progress.
OUT_OF_MEMORY=202

# Exit code of a worker whose --setup script failed (tpu_pod.sh). It is not the code of any signal, and
# it is restartable, because a mount or a copy may succeed the next time.
# shellcheck disable=SC2034
SETUP_FAILED=200

# Whether a run that ended with exit code $1 may be restarted.
restartable() { (($1 == 42 || ($1 >= 128 && $1 != 130))); }

# Prints the exit code $1 of a process, or OUT_OF_MEMORY or CUT_OFF if its log $2 says that, from byte $3 on.
# Slurm says how many processes of a step were killed for lack of memory.
code_of() {
  local code=$1
  if restartable "$code" && ((code != OUT_OF_MEMORY)); then
    if says 'std::bad_alloc|Detected [0-9]+ oom.kill event' "$2" "$3"; then
      code=$OUT_OF_MEMORY
    elif says 'unexpectedly tried to connect' "$2" "$3"; then
      code=$CUT_OFF
    fi
  fi
  printf '%s\n' "$code"
}
says() { # whether the file $2 has the extended regular expression $1, from byte $3 on
  # grep -c reads everything: `tail` would fail if it ended early.
  (($(tail -c "+$3" -- "$2" 2>/dev/null | grep -cE "$1" || true) > 0))
}

# Whether a process that ended with $1 was killed for lack of memory; $2 is the `oom_kills` from before it.
lacked_memory() {
  if (($1 != 137)); then return 1; fi
  count_oom_kills
  ((oom_kills > $2))
}

# Prints the exit code of a launcher whose run ended with $1; $2: yes if it was given up.
end_code() {
  case $1 in
    "$CUT_OFF") printf '42\n' ;;
    "$OUT_OF_MEMORY") if [[ ${2:-} == yes ]]; then printf '1\n'; else printf '137\n'; fi ;;
    *) printf '%s\n' "$1" ;;
  esac
}

# Prints one exit code for the exit codes of all processes of a run. A code that forbids a restart
# takes precedence: the other processes ended as a consequence, with any code.
group_code() {
  local code worst=0 stopped='' again=''
  for code in "$@"; do
    if ((code == OUT_OF_MEMORY)); then
      again=$OUT_OF_MEMORY
    elif ((code == CUT_OFF)); then
      if [[ $again != "$OUT_OF_MEMORY" ]]; then again=$CUT_OFF; fi
    elif restartable "$code"; then
      again=${again:-42}
    elif ((code == 130)); then
      stopped=yes
    elif ((code > worst)); then
      worst=$code
    fi
  done
  if ((worst == 0)) && [[ -n $stopped ]]; then worst=130; fi
  if ((worst == 0)) && [[ -n $again ]]; then worst=$again; fi
  printf '%s\n' "$worst"
}

# Asks the program how far the work in $1 (a workdir, also gs://..., or the --out folder of `prepare`) has
# come: "TOKEN ADVANCED WORDS", where TOKEN stands for the progress, ADVANCED is yes or no (compared with the
# token $2; - for the first call), and WORDS are for people. Fails, with the program's message, if that
# cannot be read now.
ask_progress() {
  # shellcheck disable=SC2154  # of python_env.sh
  local program=${FREPO_PROGRAM:-$venv/bin/frepo-scale}
  if [[ ! -x $program ]]; then program=frepo-scale; fi # of an image that has no .venv
  "$program" status "$1" "--since=$2" </dev/null
}

# Counts attempts in a row without progress. `note_progress "TOKEN ADVANCED WORDS" CODE` sets the four below;
# with an empty first argument the progress is not known, which counts as none.
progress=- # the last token
progress_words='nothing saved'
stalls=0
cuts=0 # attempts in a row, without progress, that another program ended
note_progress() {
  local token=$progress advanced=no words='what is saved is not known'
  if [[ -n $1 ]]; then read -r token advanced words <<<"$1"; fi
  progress=$token
  progress_words=$words
  if [[ $advanced == yes ]]; then
    stalls=0 cuts=0
  elif (($2 == CUT_OFF)); then
    cuts=$((cuts + 1))
  else
    stalls=$((stalls + 1))
  fi
}

# Prints the exit code $1 in words.
code_words() {
  if (($1 == CUT_OFF)); then
    printf 'ended by another program that registered as a process of this run\n'
  elif (($1 == OUT_OF_MEMORY)); then
    printf 'ended for lack of memory on its machine\n'
  else
    printf 'code %s\n' "$1"
  fi
}

# Whether the run is to be given up, which it says: after $1 attempts in a row without progress, after one
# that lacked memory, or after CUTS that another program ended. $2: the last exit code.
given_up() {
  if (($2 == OUT_OF_MEMORY && stalls > 0)); then # it would happen again at the same place
    say "giving up: the machine has too little memory, and there was no progress ($progress_words): lower" \
      "--gin.BATCH, --gin.POOL_SIZE or --gin.DATA_WORKERS, set --gin.DATA_PLACEMENT=stream for a prepared" \
      "set, or take a machine with more memory"
  elif ((stalls >= $1)); then
    say "giving up: $1 attempts in a row without progress ($progress_words); last code $2"
  elif ((cuts >= CUTS)); then
    say "giving up: $cuts attempts in a row were ended by another program that registered as a process of" \
      "this run ($progress_words): end earlier attempts and other runs that use the same coordinator, and" \
      "let only the machines of this run reach its port"
  else
    return 1
  fi
}

# Sets `oom_kills` to how many processes the kernel has killed for lack of memory in this container, or on
# this machine. Without a subshell, in which bash could lose a Ctrl-C.
count_oom_kills() {
  local file name number group=/sys/fs/cgroup
  oom_kills=0
  for file in ${FREPO_OOM_COUNTS:-"$group/memory.events" "$group/memory/memory.oom_control" /proc/vmstat}; do
    if [[ ! -r $file ]]; then continue; fi
    while read -r name number; do
      if [[ $name == oom_kill ]]; then
        oom_kills=$number
        return 0
      fi
    done <"$file"
  done
}

# Sleeps $1 seconds. Unlike a sleep in the foreground, a signal with a trap ends it at once.
pause_for() {
  local sleeping
  sleep "$1" >/dev/null 2>&1 &
  sleeping=$!
  wait "$sleeping" || kill "$sleeping" 2>/dev/null || true
}
