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

# Exit code of a worker whose --setup script failed (tpu_pod.sh). It is not the code of any signal, and
# it is restartable, because a mount or a copy may succeed the next time.
# shellcheck disable=SC2034
SETUP_FAILED=200

# Reports wrong input on one line (what it is, what was expected, how to fix it) and exits with 2.
refuse() {
  say "$*"
  exit 2
}

# Prints a command so that it can be pasted into a shell.
show() {
  local word line=''
  for word in "$@"; do line+=" $(printf '%q' "$word")"; done
  printf '%s\n' "${line# }"
}

# Whether a run that ended with exit code $1 may be restarted.
restartable() { (($1 == 42 || ($1 >= 128 && $1 != 130))); }

# Prints one exit code for the exit codes of all processes of a run. A code that forbids a restart
# takes precedence: the other processes ended as a consequence, with any code.
group_code() {
  local code worst=0 stopped='' again=''
  for code in "$@"; do
    if restartable "$code"; then
      again=yes
    elif ((code == 130)); then
      stopped=yes
    elif ((code > worst)); then
      worst=$code
    fi
  done
  if ((worst == 0)) && [[ -n $stopped ]]; then worst=130; fi
  if ((worst == 0)) && [[ -n $again ]]; then worst=42; fi
  printf '%s\n' "$worst"
}

# Prints one line for each complete checkpoint of the run at $1 (gs://...). On a store a checkpoint has
# no temporary folder, and commit_success.txt is written last. If gcloud cannot list it, the program's
# own packages are tried.
saved_in_store() {
  local pattern='checkpoints/*/commit_success.txt' said=''
  if command -v gcloud >/dev/null; then
    # shellcheck disable=SC2069  # errors are captured, names are printed
    if said=$({ gcloud storage ls "$1/$pattern" </dev/null; } 2>&1 >&3); then return 0; fi
    if [[ $said == *'matched no objects'* ]]; then return 0; fi
  fi 3>&1
  # shellcheck disable=SC2154  # of python_env.sh
  if "$venv/bin/python" -I -c 'import signal, sys
signal.alarm(60)  # without permission the library retries forever
from etils import epath
for path in epath.Path(sys.argv[1]).glob(sys.argv[2]):
    print(path)' "$1" "$pattern" </dev/null 2>/dev/null; then return 0; fi
  say "cannot list the checkpoints in $1 from this machine: counted as no new checkpoint"
}

# Prints the last saved step of the run in $1 (a folder or gs://...), -1 if there is none.
saved_step() {
  local name last=-1
  while IFS= read -r name; do
    name=${name%/}
    name=${name##*/}
    # Digits only: this excludes the temporary folder of a checkpoint that is being written.
    if [[ $name =~ ^[0-9]{1,18}$ ]] && ((10#$name > last)); then last=$((10#$name)); fi
  done < <(
    case $1 in
      (gs://*) saved_in_store "${1%/}" | sed 's|/commit_success.txt$||' || true ;;
      (*) for name in "${1%/}/checkpoints"/*/; do printf '%s\n' "$name"; done ;;
    esac
  )
  printf '%s\n' "$last"
}

# Prints how many nets the final evaluation of the run in $1 has finished, 0 if that is not known. A run
# that is stopped repeatedly in its evaluation stays at its last step, but still makes progress.
finished_nets() {
  local file=${1%/}/evaluation_progress.json
  {
    case $file in
      gs://*) gcloud storage cat "$file" </dev/null ;;
      *) cat -- "$file" ;;
    esac || true
  } 2>/dev/null | grep -c '^ *"[^"]*/[0-9]*": \[' || true # one line for each, for example "distilled/0": [
}

# Prints how many parts `frepo-scale prepare --out $1` has finished: shards, then moments.
finished_parts() {
  local part count=0
  for part in "$1/.unfinished"/*.array_record.json "$1/.unfinished"/moments-*.npz; do
    if [[ -e $part ]]; then count=$((count + 1)); fi
  done
  printf '%s\n' "$count"
}

# Prints $1, a number from saved_step, in words.
saved_words() { if (($1 < 0)); then printf 'nothing saved'; else printf 'saved step %s' "$1"; fi; }

# Records the progress after an attempt: $1 is the saved step, $2 the number of finished nets (or
# parts). `stalls` counts the attempts in a row without progress.
best_saved=-1
last_finished=0
stalls=0
note_saved() {
  local before="$best_saved $last_finished"
  if (($1 > best_saved)); then best_saved=$1; fi
  # A smaller number belongs to another evaluation, started since; 0 may mean unknown.
  if (($2 > 0)); then last_finished=$2; fi
  if [[ $before == "$best_saved $last_finished" ]]; then stalls=$((stalls + 1)); else stalls=0; fi
}

# Prints the last value of option $1 among the following words; nothing if the option is absent.
value_of() {
  local option=$1 value='' word before=''
  shift
  for word in "$@"; do
    case $word in "$option="*) value=${word#*=} ;; esac
    if [[ $before == "$option" ]]; then value=$word; fi
    before=$word
  done
  printf '%s\n' "$value"
}

# Prints the workdir named by the program's arguments "$@", or the program's default workdir for their
# recipe; nothing if they name neither.
workdir_of() {
  local workdir recipe='' word='' before=''
  workdir=$(value_of --workdir "$@")
  for word in "$@"; do
    if [[ $before == distill && -z $recipe ]]; then recipe=$word; fi
    before=$word
  done
  if [[ -n $workdir ]]; then
    # The shell does not expand the tilde of --workdir=~/run, but the program does.
    if [[ $workdir == \~/* ]]; then workdir=$HOME/${workdir:2}; fi
    printf '%s\n' "$workdir"
  elif [[ -n $recipe && $recipe != -* ]]; then
    recipe=${recipe##*/}
    printf 'runs/%s\n' "${recipe%.gin}"
  fi
}

# Checks that $2, the value of option $1, is a whole number of at least $3.
whole_number() {
  if [[ ! $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3)); then
    refuse "$1 '$2': expected a whole number of at least $3, for example $1 $(($3 > 3 ? $3 : 3))"
  fi
}

# Sleeps $1 seconds. Unlike a sleep in the foreground, a signal with a trap ends it at once.
pause_for() {
  local sleeping
  sleep "$1" >/dev/null 2>&1 &
  sleeping=$!
  wait "$sleeping" || kill "$sleeping" 2>/dev/null || true
}
