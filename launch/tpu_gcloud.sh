# shellcheck shell=bash
# What tpu_pod.sh asks gcloud to do; sourced, not run. Requires tpu_call.sh and the settings of tpu_pod.sh.
# shellcheck disable=SC2154  # those settings

# Like cloud, and prints the output of gcloud after a failure.
cloud_or_say() {
  local code
  if cloud "$@"; then return 0; else code=$?; fi
  cat -- "$scratch/out" "$scratch/err" >&2 || true
  return "$code"
}

# gcloud compute tpus $1 $2 TPU_NAME ...
tpu() {
  local group=$1 verb=$2
  shift 2
  cloud compute tpus "$group" "$verb" "$tpu_name" "--zone=$zone" "--project=$project" --quiet "$@"
}

# gcloud compute tpus tpu-vm $1 (ssh or scp) "${@:2}", on the route to the workers that the options ask for,
# with connections that end when the other side does not answer.
reach() {
  local verb=$1 track=() route=()
  shift
  if [[ -n $iap ]]; then
    track=(alpha)
    route=(--tunnel-through-iap)
  elif [[ -n $internal_ips ]]; then
    route=(--internal-ip)
  fi
  cloud ${track[@]+"${track[@]}"} compute tpus tpu-vm "$verb" "$@" "--zone=$zone" "--project=$project" \
    --quiet "--$verb-flag=-oServerAliveInterval=15" "--$verb-flag=-oConnectTimeout=20" \
    ${route[@]+"${route[@]}"}
}

# The number of tries until gcloud answers. A run of days must survive an hour without network on this
# machine and single failures of the service, but `status` must answer soon.
max_tries=1

state=UNKNOWN
# Sets `state` to that of the TPU VM ($1 tpu-vm) or the queued resource ($1 queued-resources):
# MISSING if it does not exist, UNKNOWN if gcloud did not answer.
ask_state() {
  local tries=1
  ask_state_once "$1"
  while [[ $state == UNKNOWN ]] && ((tries++ < max_tries)); do
    # Before anything runs there is no reason to wait for a permission, or for an API to be enabled.
    if ((attempt == 0)) && grep -q 'PERMISSION_DENIED\|SERVICE_DISABLED' "$scratch/err"; then break; fi
    if ((tries == 2)); then say "gcloud does not answer: trying again for a while"; fi
    pause_for "$poll"
    ask_state_once "$1"
  done
}

ask_state_once() {
  local field='value(state)'
  if [[ $1 == queued-resources ]]; then field='value(state.state)'; fi
  if [[ -n $dry ]]; then
    tpu "$1" describe "--format=$field"
    state=READY
    if [[ -n $create ]]; then state=MISSING; fi
  elif tpu "$1" describe "--format=$field"; then
    state=''
    read -r state <"$scratch/out" || true # without a subshell, in which bash could lose a Ctrl-C
    state=${state:-UNKNOWN}
  elif grep -qi 'NOT_FOUND\|not found' "$scratch/err"; then
    state=MISSING
  else
    state=UNKNOWN
  fi
}

# Runs the words after $1 as a command on worker $1 ("all": on every worker), without expansion.
remote() {
  local worker=$1
  shift
  reach ssh "$tpu_name" "--worker=$worker" "--command=$(show "$@")"
}

# Runs launch/tpu_worker.sh in the same way; `prepare` and `start` get the variables of --env.
worker() {
  local which=$1 with=()
  shift
  case $1 in
    prepare | start) if ((${#variables[@]})); then with=(env "${variables[@]}"); fi ;;
  esac
  remote "$which" ${with[@]+"${with[@]}"} bash frepo_scale/code/launch/tpu_worker.sh "$@"
}

# Reads the workers' states into `states`, by number; `answered` is the number of workers that answered.
states=()
answered=0
read_states() {
  local tag number word
  states=()
  answered=0
  while read -r tag number word; do
    word=${word%$'\r'}
    if [[ $tag == frepo-worker && $number =~ ^[0-9]+$ ]]; then
      if [[ -z ${states[number]:-} ]]; then answered=$((answered + 1)); fi
      states[number]=$word
    fi
  done <"$scratch/out"
}

# Stops the program on every worker; $1: seconds for saving. Asked again if no worker answered.
stop_all() {
  local tries=1
  until worker all stop "$1"; do
    read_states
    if ((answered > 0 || tries++ >= 3)); then
      say "some workers did not answer"
      break
    fi
    pause_for "$poll"
  done
  read_states
}

# Requests the machines. `--valid-until-duration`: an abandoned request must not be granted, and cost
# money, hours later. `--max-run-duration` is in gcloud alpha and for flex-start only.
create_pod() {
  local alpha=() options=()
  case $provision in
    spot) options=(--spot) ;;
    flex-start)
      alpha=(alpha)
      options=(--provisioning-model=flex-start "--max-run-duration=${max_seconds}s")
      ;;
    on-demand) ;;
  esac
  if [[ -n $network ]]; then options+=("--network=$network"); fi
  if [[ -n $subnetwork ]]; then options+=("--subnetwork=$subnetwork"); fi
  if [[ -n $service_account ]]; then options+=("--service-account=$service_account"); fi
  if [[ -n $internal_ips ]]; then options+=(--internal-ips); fi
  say "requesting $tpu_name ($accelerator_type, $provision) in $zone"
  cloud_or_say ${alpha[@]+"${alpha[@]}"} compute tpus queued-resources create "$tpu_name" \
    "--node-id=$tpu_name" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" "--zone=$zone" "--project=$project" --quiet \
    "--valid-until-duration=${wait_hours}h" ${options[@]+"${options[@]}"} --async
}

# Waits until the request is granted; prints one line and fails if it will not be.
wait_for_pod() {
  local last=''
  while :; do
    ask_state queued-resources
    if [[ -n $dry ]]; then return 0; fi
    if [[ $state != "$last" ]]; then say "$tpu_name: $state"; fi
    last=$state
    if [[ $state == ACTIVE ]]; then return 0; fi
    if gone; then
      say "the request for $tpu_name was not granted (now $state): try again, or another zone or --provision"
      return 1
    fi
    pause_for "$poll"
  done
}

# Deletes request and machines, and checks that nothing is left that costs money.
delete_pod() {
  local tries=0 words="$tpu_name did not exist in $zone of $project"
  say "deleting $tpu_name"
  while ((tries++ < 5)); do
    # Deleting the request deletes its machines. A pod that was created otherwise has no request.
    if tpu queued-resources delete --force; then words="$tpu_name is deleted"; fi
    if tpu tpu-vm delete; then words="$tpu_name is deleted"; fi
    if [[ -n $dry ]]; then return 0; fi
    ask_state queued-resources
    if [[ $state == MISSING ]]; then
      ask_state tpu-vm
      if [[ $state == MISSING ]]; then
        say "$words"
        return 0
      fi
    fi
    pause_for "$poll"
  done
  say "$tpu_name COULD NOT BE DELETED and costs money ($state): check it with launch/tpu_pod.sh status" \
    "or at https://console.cloud.google.com/compute/tpus"
  return 1
}

# Copies the code, a recipe from outside the repository, and the --setup script to every worker.
ship() {
  local unpack
  say "copying the code to every worker"
  # The first login creates and distributes the SSH key, so it must not run in parallel. A new machine
  # needs some time until it answers.
  local tries=0
  until remote 0 true; do
    if ((++tries >= 10)); then
      cat -- "$scratch/err" >&2 || true
      return 1
    fi
    ask_state tpu-vm
    if gone; then return 1; fi
    pause_for "$poll"
  done
  local archive=$scratch/frepo_scale.tar.gz pack
  pack=(tar --exclude=__pycache__ -C "$root" -czf)
  if [[ -n $dry ]]; then archive=frepo_scale.tar.gz; fi
  pack+=("$archive" pyproject.toml README.md frepo_scale gin launch)
  if [[ -d $root/requirements ]]; then pack+=(requirements); fi
  if [[ -n $recipe_file ]]; then
    mkdir -p -- "$scratch/launch_recipe"
    cp -- "$recipe_file" "$scratch/launch_recipe/" || return 1
    pack+=(-C "$scratch" launch_recipe)
  fi
  if [[ -n $setup ]]; then
    mkdir -p -- "$scratch/launch_setup"
    cp -- "$setup" "$scratch/launch_setup/setup.sh" || return 1
    pack+=(-C "$scratch" launch_setup)
  fi
  if [[ -n $dry ]]; then
    show "${pack[@]}"
  else
    # A worker has no repository to ask; the report of the run names the commit.
    if [[ -e $root/.git ]] &&
      git -C "$root" describe --always --dirty --exclude='*' --abbrev=12 >"$scratch/COMMIT" 2>/dev/null; then
      pack+=(-C "$scratch" COMMIT)
    fi
    COPYFILE_DISABLE=1 "${pack[@]}" || return 1 # without the ._ files of macOS
  fi
  reach scp "$archive" "$tpu_name:frepo_scale.tar.gz" --worker=all || {
    cat -- "$scratch/out" "$scratch/err" >&2 || true
    return 1
  }
  # Everything is replaced except .venv, which takes minutes to create.
  # shellcheck disable=SC2016  # expanded on the worker
  unpack='set -e
if [ -e frepo_scale/code/launch/tpu_worker.sh ] &&
  bash frepo_scale/code/launch/tpu_worker.sh busy; then echo frepo-busy; exit 0; fi
mkdir -p frepo_scale/code
find frepo_scale/code -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf -- {} +
tar -xzf frepo_scale.tar.gz -C frepo_scale/code'
  remote all bash -c "$unpack" || {
    cat -- "$scratch/out" "$scratch/err" >&2 || true
    return 1
  }
  if grep -q '^frepo-busy' "$scratch/out"; then return 3; fi
}
