#!/usr/bin/env bash
# Distils on a TPU pod of Google Cloud, from this machine.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh [run] [options] RECIPE [args...]
       launch/tpu_pod.sh create|status|logs|stop|delete [options]

run     copies this repository's code to every worker, installs there what is missing, starts the
        program on all of them detached from this machine, and shows worker 0's log. When all ended
        with 42 or by a signal, all are started again; three such ends in a row without a new
        checkpoint (or another finished net of the final evaluation), and it gives up. One that ends
        with 1 or 2 stops all. The args go to `frepo-scale distill`. Ends with 0 done, 42 stopped and
        saved, 1 failed, 2 wrong input.
create  asks for the machines (a queued resource) and waits for them
status  what exists and runs: request, machines, workers, exit codes, saved step
logs    worker 0's log (--worker N: another's), and what follows
stop    SIGTERM to the program on every worker, and waits until it saved and ended
delete  deletes request and machines

settings, as an option or in the environment:
  --tpu-name TPU_NAME  --zone ZONE  --project PROJECT          no defaults
  --workdir WORKDIR     gs://..., or a folder on a file system all workers share (for run)
  --data-dir DATA_DIR   where the data are, as the workers see them (default: the recipe's)
  --accelerator-type ACCELERATOR_TYPE   (v5litepod-16)
  --runtime-version RUNTIME_VERSION     (v2-alpha-tpuv5-lite)

options:
  --setup SCRIPT        run: a bash script of this machine, run on every worker before the program, in
                        every attempt and on new machines, too: to mount or copy the data, say. It
                        must do when run again, and finds DATA_DIR (if given) in its environment.
                        Where it fails no program starts: 2 stops all, any other code is restarted
                        like a lost machine.
  --env NAME=VALUE      run: a variable for the installation, SCRIPT and the program on every worker;
                        as often as needed. No secrets: it is in the command lines.
  --create              run: ask for the machines if they are not there
  --recreate            run: delete and ask again, as often as they are taken away (and --create)
  --provision KIND      spot, on-demand, or flex-start, which needs --max-hours (default: spot)
  --wait-hours N        how long a request stays open (default: 6)
  --max-hours N         stop the run (it saves) N hours after the machines are there. This machine
                        watches over it and must stay on. With flex-start the cloud does, too, and
                        deletes the machines; gcloud has no such limit for spot and on-demand.
  --delete-when-done    delete request and machines when this command ends, however it ends (not if
                        it is killed with SIGKILL or this machine goes off: see status then)
  --poll SECONDS        between looks at the workers (default: 20)
  --grace SECONDS       for the other workers once one ended, and for stop (default: 150)
  --attempts N          instead of three
  --dry-run             print every gcloud command, run none
Without --delete-when-done the machines stay, and cost money, until `delete`. Ctrl-C ends only the
watching: the program goes on, unless --delete-when-done was given.
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"
# shellcheck source=launch/tpu_gcloud.sh
source "$here/tpu_gcloud.sh"

tpu_name=${TPU_NAME:-} zone=${ZONE:-} project=${PROJECT:-}
workdir=${WORKDIR:-} data_dir=${DATA_DIR:-}
accelerator_type=${ACCELERATOR_TYPE:-v5litepod-16}
runtime_version=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
create='' recreate='' delete_when_done='' dry='' provision=spot wait_hours=6 max_seconds=0
poll=20 grace=150 attempts=$ATTEMPTS which=0 recipe='' recipe_file='' setup='' variables=()

read_arguments() {
  command=run
  case ${1:-} in
    run | create | status | logs | stop | delete)
      command=$1
      shift
      ;;
  esac
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --create) create=yes ;;
      --recreate) create=yes recreate=yes ;;
      --delete-when-done) delete_when_done=yes ;;
      --dry-run) dry=yes ;;
      -*)
        if (($# < 2)); then refuse "$1 is unknown or has no value: see --help"; fi
        case $1 in
          --tpu-name) tpu_name=$2 ;;
          --zone) zone=$2 ;;
          --project) project=$2 ;;
          --workdir) workdir=$2 ;;
          --data-dir) data_dir=$2 ;;
          --setup)
            if [[ ! -f $2 || ! -r $2 ]]; then
              refuse "--setup '$2' is not there or cannot be read: expected a bash script, as in" \
                "--setup mount_data.sh"
            fi
            setup=$2
            ;;
          --env)
            if [[ ! $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
              refuse "--env '$2' will not do: expected NAME=VALUE, as in --env TF_CPP_MIN_LOG_LEVEL=0"
            fi
            variables+=("$2")
            ;;
          --accelerator-type) accelerator_type=$2 ;;
          --runtime-version) runtime_version=$2 ;;
          --provision) provision=$2 ;;
          --max-hours) max_seconds=$(hours "$2") ;;
          --wait-hours | --poll | --grace | --attempts | --worker)
            whole_number "$1" "$2" "$([[ $1 == --attempts || $1 == --wait-hours ]] && echo 1 || echo 0)"
            case $1 in
              --wait-hours) wait_hours=$2 ;;
              --poll) poll=$2 ;;
              --grace) grace=$2 ;;
              --attempts) attempts=$2 ;;
              --worker) which=$2 ;;
            esac
            ;;
          *) refuse "option '$1' is unknown: see --help; those of the program come after RECIPE" ;;
        esac
        shift
        ;;
      *) break ;;
    esac
    shift
  done
  arguments=("$@")
}

hours() { # as seconds
  if [[ ! $1 =~ ^[0-9]{1,4}(\.[0-9]{1,6})?$ ]]; then
    refuse "--max-hours '$1' will not do: it takes hours, as in --max-hours 12 or 0.5"
  fi
  awk -v hours="$1" 'BEGIN { seconds = hours * 3600; printf "%d\n", seconds < 1 ? 1 : seconds }'
}

# Everything that is wrong is found before anything is asked for or started.
check() {
  local setting value
  for setting in TPU_NAME ZONE PROJECT ACCELERATOR_TYPE RUNTIME_VERSION; do
    case $setting in
      TPU_NAME) value=$tpu_name ;;
      ZONE) value=$zone ;;
      PROJECT) value=$project ;;
      ACCELERATOR_TYPE) value=$accelerator_type ;;
      *) value=$runtime_version ;;
    esac
    if [[ -z $value ]]; then
      refuse "$setting is not set: name it in the environment, or with" \
        "--$(tr '[:upper:]_' '[:lower:]-' <<<"$setting")"
    elif [[ ! $value =~ ^[a-z0-9][-a-z0-9.:]*$ ]]; then
      refuse "$setting is '$value': expected lower-case letters, digits and dashes, as in my-tpu"
    fi
  done
  case $provision in
    spot | on-demand) ;;
    flex-start) if ((max_seconds == 0)); then refuse "--provision flex-start needs --max-hours"; fi ;;
    *) refuse "--provision '$provision' is unknown: spot, on-demand or flex-start" ;;
  esac
  if [[ $command == run ]]; then
    check_run
  elif [[ -n $setup ]] || ((${#variables[@]})); then
    refuse "$command starts no program: --setup and --env are for run"
  elif ((${#arguments[@]})); then
    refuse "'${arguments[0]}' is too much: $command takes options only"
  fi
  if [[ -z $dry ]] && ! command -v gcloud >/dev/null; then
    refuse "gcloud is not there: install the Google Cloud CLI (https://cloud.google.com/sdk)"
  fi
}

check_run() {
  local word
  if ((${#arguments[@]} == 0)); then refuse "no RECIPE: name a .gin file, or one under gin/"; fi
  recipe=${arguments[0]}
  arguments=("${arguments[@]:1}")
  for word in ${arguments[@]+"${arguments[@]}"}; do
    case $word in
      --workdir | --workdir=*) refuse "--workdir after RECIPE: it comes before it, or as WORKDIR" ;;
    esac
  done
  case $workdir in
    gs://?* | /?*) ;;
    '') refuse "WORKDIR is not set: name a gs://bucket/folder for the checkpoints, or --workdir" ;;
    *) refuse "WORKDIR is '$workdir': expected gs://..., or an absolute path all workers share" ;;
  esac
  if [[ -f $root/gin/$recipe ]]; then
    : # by its name, as the program finds it
  elif [[ -f $root/gin/$recipe.gin ]]; then
    recipe=$recipe.gin
  elif [[ -f $recipe ]]; then
    recipe_file=$recipe
    recipe=launch_recipe/${recipe##*/}
  else
    refuse "recipe '$recipe' is not there: expected a .gin file, or the name of one under $root/gin"
  fi
  if [[ -n $setup && -n $data_dir ]]; then # first: --env may name another
    variables=("DATA_DIR=$data_dir" ${variables[@]+"${variables[@]}"})
  fi
}

# Sets `step` to the last saved one, `nets` to how many the final evaluation has finished. 1: it cannot
# be asked now, and both stay what they were; machines that are gone cannot tell what is in a folder of
# theirs.
step=-1
nets=0
ask_step() {
  local asked='' finished=''
  case $workdir in
    gs://*)
      if [[ -z $dry ]]; then asked="$(saved_step "$workdir") $(finished_nets "$workdir")"; fi
      ;;
    *) if worker 0 saved "$workdir"; then asked=$(sed -n 's/^frepo-saved //p' "$scratch/out"); fi ;;
  esac
  read -r asked finished <<<"${asked%$'\r'}"
  if [[ -z $asked ]] || ((asked < step)); then return 1; fi # what was saved stays saved
  step=$asked
  nets=${finished:-0}
}

show_log() { # of worker $1, from byte `offset` on
  if worker "$1" log "$offset"; then
    cat -- "$scratch/out" || true
    offset=$((offset + $(wc -c <"$scratch/out")))
  fi
}

stop_all() { # $1: seconds to save in
  worker all stop "$1" || say "not every worker answered"
  read_states
}

tell_states() {
  local number
  for number in "${!states[@]}"; do say "worker $number: ${states[number]}"; done
}

# shellcheck source=launch/tpu_run.sh
source "$here/tpu_run.sh"

read_arguments "$@"
check
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
case $command in
  run) run_pod ;;
  create)
    trap 'say "the request for $tpu_name stays open for $wait_hours hours, and what it gets costs" \
      "money: launch/tpu_pod.sh delete"; exit 130' INT TERM HUP
    create_pod
    wait_for_pod
    ;;
  delete) delete_pod ;;
  status)
    for kind in queued-resources tpu-vm; do
      ask_state "$kind"
      if [[ -z $dry ]]; then printf '%s %s: %s\n' "$kind" "$tpu_name" "$state"; fi
    done
    if [[ $state == READY || -n $dry ]]; then
      if worker all report; then read_states; else say "the workers do not answer"; fi
      for number in "${!states[@]}"; do printf 'worker %s: %s\n' "$number" "${states[number]}"; done
    fi
    if [[ -n $workdir ]]; then
      ask_step || true
      printf '%s: %s\n' "$workdir" "$(saved_words "$step")"
    fi
    ;;
  logs)
    offset=1
    while :; do
      show_log "$which"
      if [[ -n $dry ]]; then break; fi
      if ! worker "$which" report; then
        cat -- "$scratch/err" >&2
        exit 1
      fi
      read_states
      if [[ ${states[which]:-} != running ]]; then
        show_log "$which"
        say "worker $which: ${states[which]:-none}"
        break
      fi
      rest "$poll"
    done
    ;;
  stop)
    stop_all "$grace"
    tell_states
    if ((heard == 0)) && [[ -z $dry ]]; then exit 1; fi
    ;;
esac
