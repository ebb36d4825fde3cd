# shellcheck shell=bash
# How the launch scripts read their command lines; sourced, not run. Requires `say` of python_env.sh.
# shellcheck disable=SC2154  # `flags` and `valued`, see read_options

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

# Options of `frepo-scale distill` that take a value; --gin.NAME does, too.
PROGRAM_OPTIONS=(--workdir)

# Separates the options of a launcher from the arguments of the program. An option of the launcher is one
# wherever it stands, before or after RECIPE; `--` ends them. The launcher sets `flags` and `valued`, the
# names of its options without and with a value, and defines `set_option NAME [VALUE]`, which is called for
# each of them. Sets `recipe` to the first other word and `arguments` to the rest. Any other option is
# refused: otherwise a misspelt --dry-run would start what it should only show.
read_options() {
  local word name have=''
  recipe='' arguments=()
  while (($#)); do
    word=$1
    shift
    case $word in
      --)
        if [[ -z $have ]] && (($#)); then
          recipe=$1
          shift
        fi
        arguments+=("$@")
        return 0
        ;;
      --gin.*=*)
        arguments+=("$word")
        continue
        ;;
      --gin.*) # the program takes the value as a word of its own, too
        arguments+=("$word")
        if (($#)) && [[ $1 != --* ]]; then
          arguments+=("$1")
          shift
        fi
        continue
        ;;
      -?*) ;;
      *)
        if [[ -z $have ]]; then
          recipe=$word
          have=yes
        else
          arguments+=("$word")
        fi
        continue
        ;;
    esac
    name=${word%%=*}
    if among "$word" "${flags[@]}"; then
      set_option "$word"
    elif among "$name" "${flags[@]}"; then
      refuse "$word: $name takes no value"
    elif among "$name" ${valued[@]+"${valued[@]}"} || among "$name" "${PROGRAM_OPTIONS[@]}"; then
      if [[ $name != "$word" ]]; then
        set -- "${word#*=}" "$@"
      elif (($# == 0)) || [[ $1 == --* ]]; then
        refuse "$name has no value: see --help (a value that begins with -- is given as $name=VALUE)"
      fi
      if among "$name" ${valued[@]+"${valued[@]}"}; then
        set_option "$name" "$1"
      else
        arguments+=("$name" "$1")
      fi
      shift
    else
      unknown_option "$name" "${flags[@]}" ${valued[@]+"${valued[@]}"} "${PROGRAM_OPTIONS[@]}"
    fi
  done
}

# Whether $1 is one of the following words.
among() {
  local word name=$1
  shift
  for word in "$@"; do if [[ $word == "$name" ]]; then return 0; fi; done
  return 1
}

# Refuses the option $1; names those of the following options that are nearly the same.
unknown_option() {
  local name=$1 word near=''
  shift
  for word in "$@"; do
    if [[ $word == "$name"* ]] || (($(distance "$name" "$word") <= (${#name} > 8 ? 3 : 2))); then
      near+="${near:+ or }$word"
    fi
  done
  refuse "unknown option '$name': ${near:+did you mean $near? }see --help;" \
    "what follows -- is passed on as it is"
}

# Prints how many letters must be inserted, removed or replaced to make $2 of $1.
distance() {
  local from=$1 to=$2 i j cost best row=() last=()
  for ((j = 0; j <= ${#to}; j++)); do last[j]=$j; done
  for ((i = 1; i <= ${#from}; i++)); do
    row[0]=$i
    for ((j = 1; j <= ${#to}; j++)); do
      cost=1
      if [[ ${from:i-1:1} == "${to:j-1:1}" ]]; then cost=0; fi
      best=$((last[j - 1] + cost))
      if ((last[j] + 1 < best)); then best=$((last[j] + 1)); fi
      if ((row[j - 1] + 1 < best)); then best=$((row[j - 1] + 1)); fi
      row[j]=$best
    done
    last=("${row[@]}")
  done
  printf '%s\n' "${last[${#to}]}"
}

# Checks that $2, the value of option $1, is a whole number of at least $3.
whole_number() {
  # Without leading zeros: bash takes 010 for 8, and 08 for an error.
  if [[ ! $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3)); then
    refuse "$1 '$2': expected a whole number of at least $3, for example $1 $(($3 > 3 ? $3 : 3))"
  fi
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
