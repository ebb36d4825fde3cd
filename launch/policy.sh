# shellcheck shell=bash
# When a run that ended is started again; sourced, not run, by every script that restarts.
#
# The program's exit codes: 0 done, 42 stopped and saved, 1 it failed, 2 wrong input, 130 the user
# stopped it, 128 and above a signal ended it (134: the runtime gave up since another process died).
# Wants `say` and `venv` of python_env.sh.

# So many ends in a row without a new checkpoint, or another finished net of the final evaluation,
# and it is given up.
# shellcheck disable=SC2034  # for those who source this
ATTEMPTS=3

# Of a worker whose --setup script failed (tpu_pod.sh): no signal's, and restartable as those are, since
# a mount or a copy may succeed the next time.
# shellcheck disable=SC2034
SETUP_FAILED=200

# Wrong input: what it is, what was expected, how to mend it; nothing was changed.
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

# Whether a run that ended with code $1 may be started again.
restartable() { (($1 == 42 || ($1 >= 128 && $1 != 130))); }

# Prints the one code that stands for the codes of all processes of a run. What must not be
# repeated wins: the others ended since that one did, and whatever code they gave.
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

# Prints what is whole in the run at $1 (gs://...), a line each: a checkpoint is written there without
# a temporary folder, and this file last. Where gcloud cannot tell, the program's own packages may.
saved_in_store() {
  local pattern='checkpoints/*/commit_success.txt' said=''
  if command -v gcloud >/dev/null; then
    # shellcheck disable=SC2069  # the errors are read, the names go on
    if said=$({ gcloud storage ls "$1/$pattern" </dev/null; } 2>&1 >&3); then return 0; fi
    if [[ $said == *'matched no objects'* ]]; then return 0; fi
  fi 3>&1
  # shellcheck disable=SC2154  # of python_env.sh
  if "$venv/bin/python" -I -c 'import signal, sys
signal.alarm(60)  # a store that may not be asked is asked again and again
from etils import epath
for path in epath.Path(sys.argv[1]).glob(sys.argv[2]):
    print(path)' "$1" "$pattern" </dev/null 2>/dev/null; then return 0; fi
  say "what is saved in $1 cannot be seen from here: counted as nothing new"
}

# Prints the last saved step of the run in $1 (a folder or gs://...), -1 if there is none.
saved_step() {
  local name last=-1
  while IFS= read -r name; do
    name=${name%/}
    name=${name##*/}
    # Nothing but digits: not the temporary folder of a checkpoint that is being written.
    if [[ $name =~ ^[0-9]{1,18}$ ]] && ((10#$name > last)); then last=$((10#$name)); fi
  done < <(
    case $1 in
      (gs://*) saved_in_store "${1%/}" | sed 's|/commit_success.txt$||' || true ;;
      (*) for name in "${1%/}/checkpoints"/*/; do printf '%s\n' "$name"; done ;;
    esac
  )
  printf '%s\n' "$last"
}

# Prints how many nets the final evaluation of the run in $1 has finished, 0 where that cannot be seen:
# a run that is stopped in it again and again keeps its last step, and yet comes to an end.
finished_nets() {
  local file=${1%/}/evaluation_progress.json
  {
    case $file in
      gs://*) gcloud storage cat "$file" </dev/null ;;
      *) cat -- "$file" ;;
    esac || true
  } 2>/dev/null | grep -c '^ *"[^"]*/[0-9]*": \[' || true # a line each, as in "distilled/0": [
}

# Prints how many parts `frepo-scale prepare --out $1` has finished: shards, then moments.
finished_parts() {
  local part count=0
  for part in "$1/.unfinished"/*.array_record.json "$1/.unfinished"/moments-*.npz; do
    if [[ -e $part ]]; then count=$((count + 1)); fi
  done
  printf '%s\n' "$count"
}

# Prints how far $1, as printed by saved_step, is.
saved_words() { if (($1 < 0)); then printf 'nothing saved'; else printf 'saved step %s' "$1"; fi; }

# After an end: $1 is the saved step now, $2 the number of finished nets (or parts). `stalls` counts
# the ends in a row without a new one.
best_saved=-1
last_finished=0
stalls=0
note_saved() {
  local before="$best_saved $last_finished"
  if (($1 > best_saved)); then best_saved=$1; fi
  # Fewer are those of another evaluation, begun since; none may mean not seen.
  if (($2 > 0)); then last_finished=$2; fi
  if [[ $before == "$best_saved $last_finished" ]]; then stalls=$((stalls + 1)); else stalls=0; fi
}

# Prints the last value of option $1 among the words after it; nothing if it is not there.
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

# Prints the workdir that the program's arguments "$@" name, or the program's default for their
# recipe; nothing if they name neither.
workdir_of() {
  local workdir recipe='' word='' before=''
  workdir=$(value_of --workdir "$@")
  for word in "$@"; do
    if [[ $before == distill && -z $recipe ]]; then recipe=$word; fi
    before=$word
  done
  if [[ -n $workdir ]]; then
    # The shell leaves the tilde of --workdir=~/run alone, the program does not.
    if [[ $workdir == \~/* ]]; then workdir=$HOME/${workdir:2}; fi
    printf '%s\n' "$workdir"
  elif [[ -n $recipe && $recipe != -* ]]; then
    recipe=${recipe##*/}
    printf 'runs/%s\n' "${recipe%.gin}"
  fi
}

# The number in $2 of option $1, or wrong input; at least $3.
whole_number() {
  if [[ ! $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3)); then
    refuse "$1 '$2' will not do: it takes a whole number from $3, as in $1 $(($3 > 3 ? $3 : 3))"
  fi
}

# Sleeps $1 seconds; a signal with a trap ends it at once, unlike a sleep in the foreground.
rest() {
  local nap
  sleep "$1" >/dev/null 2>&1 &
  nap=$!
  wait "$nap" || kill "$nap" 2>/dev/null || true
}
