#!/usr/bin/env bash
# Runs a distillation on a TPU pod of Google Cloud, controlled from this machine.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh [run] [options] RECIPE [args...]
       launch/tpu_pod.sh create|status|logs|stop|delete [options]

run     copies the code of this repository to every worker, installs missing packages, starts the
        program on all workers, detached from this machine, and prints worker 0's log. If all workers
        end with 42 or by a signal, all are restarted. After three attempts in a row without a new
        checkpoint or another finished net of the final evaluation, the command gives up. If one
        worker ends with 1 or 2, all are stopped. Options may also follow RECIPE; the args that are
        none of them, and everything after --, are passed to `frepo-scale distill`. Before anything is
        requested, the recipe is checked on this machine, for which .venv is created if necessary:
        its settings, and whether it fits into the memory of the devices.
        Exit codes: 0 done, 42 stopped and saved (also after --max-hours, or after preemptions), 1
        failed (also: no machines, or not deleted), 2 wrong input, 130 Ctrl-C, 143 SIGTERM.
create  requests the machines (a queued resource) and waits for them
status  prints the state of the request, machines and workers, exit codes (200: its --setup script
        failed; 201: another program registered as a process of the run; 202: lack of memory) and,
        with --workdir, the saved step
logs    prints worker 0's log (--worker N: another worker's) and follows it
stop    sends SIGTERM to the program on every worker and waits until it has saved and ended
delete  deletes the request and the machines

settings, as an option or in the environment:
  --tpu-name TPU_NAME  --zone ZONE  --project PROJECT          required
  --workdir WORKDIR     gs://..., or a folder on a file system that all workers share (for run)
  --data-dir DATA_DIR   the data's path on the workers (default: the recipe's)
  --accelerator-type ACCELERATOR_TYPE   (default: v5litepod-16)
  --runtime-version RUNTIME_VERSION     (default: the one for the accelerator type)
  --network, --subnetwork, --service-account   of the machines, as in `gcloud compute tpus
                        queued-resources create` (default: those of the project)

options:
  --setup SCRIPT        run: a local bash script that every worker runs before the program, in every
                        attempt and on new machines, for example to mount or copy the data. It must
                        tolerate being run again. DATA_DIR, if given, is in its environment. If it
                        fails, the program does not start: exit code 2 stops all workers, any other
                        code is restarted like a lost machine.
  --env NAME=VALUE      run: an environment variable for the installation, SCRIPT and the program on
                        every worker; may be repeated. Not for secrets: it is in the command lines.
  --internal-ips        machines without external addresses; SSH then uses the internal ones
  --iap                 SSH through Identity-Aware Proxy, for example with --internal-ips from outside of
                        the network (gcloud alpha)
  --no-plan             run: also start a recipe that does not fit into the memory of the devices by the
                        estimate of `frepo-scale plan --quick`
  --latest              install the newest allowed packages, not those of requirements/tpu.txt
  --create              run: request the machines if they do not exist
  --recreate            run: like --create, and delete and request them again after every preemption
  --provision KIND      spot, on-demand, or flex-start, which needs --max-hours (default: spot)
  --wait-hours N        how long a request stays open (default: 6)
  --max-hours N         stop the run (it saves) N hours after the machines are ready. This machine
                        enforces it and must stay on. With flex-start the cloud also enforces it and
                        deletes the machines; gcloud has no such limit for spot and on-demand.
  --delete-when-done    delete request and machines when this command ends, for whatever reason (not
                        after SIGKILL or if this machine is switched off: then check with status)
  --poll SECONDS        interval between polls of the workers (default: 20)
  --grace SECONDS       time for the other workers after one ended, and for stop (default: 150)
  --attempts N          attempts in a row without progress before giving up (default: 3)
  --dry-run             check everything on this machine and print every gcloud command without running it
A gcloud call that does not answer is ended after a limit of its kind, at most an hour; FREPO_CALL_SECONDS
in the environment replaces all limits.
Without --delete-when-done the machines stay, and cost money, until `delete`. Ctrl-C, or closing the
terminal, ends only this command: the program continues, unless --delete-when-done was given, but
nothing restarts it.
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"
# shellcheck source=launch/tpu_call.sh
source "$here/tpu_call.sh"
# shellcheck source=launch/tpu_gcloud.sh
source "$here/tpu_gcloud.sh"
# shellcheck source=launch/tpu_check.sh
source "$here/tpu_check.sh"

tpu_name=${TPU_NAME:-} zone=${ZONE:-} project=${PROJECT:-}
workdir=${WORKDIR:-} data_dir=${DATA_DIR:-}
accelerator_type=${ACCELERATOR_TYPE:-v5litepod-16} runtime_version=${RUNTIME_VERSION:-}
network='' subnetwork='' service_account='' internal_ips='' iap='' latest='' no_plan=''
create='' recreate='' delete_when_done='' dry='' provision=spot wait_hours=6 max_seconds=0
poll=20 grace=150 attempts=$ATTEMPTS which=0 recipe='' recipe_file='' setup='' variables=()

flags=(-h --help --create --recreate --delete-when-done --dry-run --internal-ips --iap --latest --no-plan)
valued=(--tpu-name --zone --project --workdir --data-dir --setup --env --accelerator-type --runtime-version
  --network --subnetwork --service-account --provision --max-hours --wait-hours --poll --grace --attempts
  --worker)
given=() # the options on the command line
set_option() {
  given+=("$1")
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --create) create=yes ;;
    --recreate) create=yes recreate=yes ;;
    --delete-when-done) delete_when_done=yes ;;
    --dry-run) dry=yes ;;
    --internal-ips) internal_ips=yes ;;
    --iap) iap=yes ;;
    --latest) latest=yes ;;
    --no-plan) no_plan=yes ;;
    --tpu-name) tpu_name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --workdir) workdir=$2 ;;
    --data-dir) data_dir=$2 ;;
    --network) network=$2 ;;
    --subnetwork) subnetwork=$2 ;;
    --service-account) service_account=$2 ;;
    --setup)
      if [[ ! -f $2 || ! -r $2 ]]; then
        refuse "--setup '$2' does not exist or cannot be read: expected a bash script," \
          "for example --setup launch/examples/mount_bucket.sh"
      fi
      setup=$2
      ;;
    --env)
      if [[ ! $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
        refuse "--env '$2': expected NAME=VALUE, for example --env TF_CPP_MIN_LOG_LEVEL=0"
      fi
      variables+=("$2")
      ;;
    --accelerator-type) accelerator_type=$2 ;;
    --runtime-version) runtime_version=$2 ;;
    --provision) provision=$2 ;;
    --max-hours) max_seconds=$(hours "$2") ;;
    *)
      whole_number "$1" "$2" "$([[ $1 == --attempts || $1 == --wait-hours ]] && echo 1 || echo 0)"
      case $1 in
        --wait-hours) wait_hours=$2 ;;
        --poll) poll=$2 ;;
        --grace) grace=$2 ;;
        --attempts) attempts=$2 ;;
        --worker) which=$2 ;;
      esac
      ;;
  esac
}

hours() { # in seconds
  if [[ ! $1 =~ ^[0-9]{1,4}(\.[0-9]{1,6})?$ ]]; then
    refuse "--max-hours '$1': expected hours, for example --max-hours 12 or 0.5"
  fi
  if [[ ! $1 =~ [1-9] ]]; then
    refuse "--max-hours '$1': expected more than 0; without the option there is no limit"
  fi
  awk -v hours="$1" 'BEGIN { seconds = hours * 3600; printf "%d\n", seconds < 1 ? 1 : seconds }'
}

# Sets `asked` to the answer of ask_progress: by worker 0 if it answers, otherwise, for a bucket, from here.
# Returns 1 if the progress is not known now, as when WORKDIR is a folder of machines that do not exist.
asked=''
blind='' # whether this machine cannot read the bucket
ask_run() {
  asked=''
  if [[ -n $ready || $state == READY || -n $dry ]] && worker 0 progress "$workdir" "$progress"; then
    asked=$(sed -n 's/^frepo-progress //p' "$scratch/out")
    asked=${asked%$'\r'}
  fi
  if [[ -n $asked ]]; then return 0; fi
  if [[ $workdir != gs://* || -n $blind || -n $dry || ! -x $venv/bin/frepo-scale ]]; then return 1; fi
  asked=$(ask_progress "$workdir" "$progress") || blind=yes
  [[ -n $asked ]]
}

show_log() { # of worker $1, from byte `offset`
  if worker "$1" log "$offset"; then
    cat -- "$scratch/out" || true
    offset=$((offset + $(wc -c <"$scratch/out")))
  fi
}

print_states() {
  local number
  for number in "${!states[@]}"; do say "worker $number: ${states[number]}"; done
}

# shellcheck source=launch/tpu_run.sh
source "$here/tpu_run.sh"

command=run
case ${1:-} in
  run | create | status | logs | stop | delete)
    command=$1
    shift
    ;;
esac
read_options "$@"
if [[ $command == run ]] && among "$recipe" run create status logs stop delete; then
  refuse "the command '$recipe' comes first: launch/tpu_pod.sh $recipe [options]"
fi
check
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
check_login # before check_here, which may install for minutes
if [[ $command == run ]]; then check_here; fi
case $command in
  run) run_pod ;;
  create)
    trap 'say "the request for $tpu_name stays open for $wait_hours hours, and its machines will cost" \
      "money: delete it with launch/tpu_pod.sh delete"; exit 130' INT TERM HUP
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
      ask_run || true
      note_progress "$asked" 0
      printf '%s: %s\n' "$workdir" "$progress_words"
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
      pause_for "$poll"
    done
    ;;
  stop)
    stop_all "$grace"
    print_states
    if ((answered == 0)) && [[ -z $dry ]]; then exit 1; fi
    ;;
esac
