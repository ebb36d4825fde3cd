# shellcheck shell=bash
# The checks of tpu_pod.sh before anything is requested or started; sourced, not run.
# shellcheck disable=SC2034,SC2154  # the settings of tpu_pod.sh

# Sets `runtime` to the runtime version of accelerator type $1, `devices` to the number of JAX's devices on
# it, and `hardware` to what the program is told of them: the type, where `frepo-scale plan` knows it. All
# are empty if the type is not known here. The number in a type counts cores, except for v5litepod and v6e;
# the two cores of a chip of v4 and v5p are one device.
describe_type() {
  local size=${1##*-}
  runtime='' devices='' hardware=''
  if [[ ! $size =~ ^[1-9][0-9]{0,4}$ ]]; then return 0; fi
  case $1 in
    v2-* | v3-*) runtime=tpu-ubuntu2204-base devices=$size hardware=$size ;;
    v4-*) runtime=tpu-ubuntu2204-base devices=$((size / 2)) hardware=$1 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite devices=$size hardware=$1 ;;
    v5p-*) runtime=v2-alpha-tpuv5 devices=$((size / 2)) hardware=$1 ;;
    v6e-*) runtime=v2-alpha-tpuv6e devices=$size hardware=$1 ;;
  esac
}

# Checks the accelerator type and sets the runtime version if none was given.
check_type() {
  local known
  case $accelerator_type in
    v5e-* | v5lite-*)
      refuse "ACCELERATOR_TYPE is '$accelerator_type':" \
        "Google Cloud calls it v5litepod-${accelerator_type##*-}"
      ;;
  esac
  describe_type "$accelerator_type"
  if [[ $devices == 0 ]]; then
    refuse "ACCELERATOR_TYPE is '$accelerator_type': the number counts cores, two for a chip: expected" \
      "for example ${accelerator_type%%-*}-8"
  fi
  if [[ -z $runtime_version && -z $runtime ]]; then
    refuse "ACCELERATOR_TYPE is '$accelerator_type', whose runtime version is not known here: expected" \
      "a type such as v5litepod-16, v4-32, v5p-8 or v6e-16, or RUNTIME_VERSION, too"
  fi
  if [[ -z $runtime_version ]]; then runtime_version=$runtime; fi
  if [[ -z $runtime || $runtime_version == "$runtime" ]]; then return 0; fi
  for known in tpu-ubuntu2204-base v2-alpha-tpuv5-lite v2-alpha-tpuv5 v2-alpha-tpuv6e; do
    if [[ $runtime_version == "$known" ]]; then
      refuse "RUNTIME_VERSION is '$runtime_version', which is not for $accelerator_type: expected $runtime"
    fi
  done
}

# Checks the command line and the environment; nothing is asked or read over the network.
check() {
  local setting value missing=''
  if [[ $command == run && -z $recipe ]]; then
    missing+=", RECIPE (a .gin file, or the name of one in gin/)"
  fi
  for setting in TPU_NAME ZONE PROJECT ACCELERATOR_TYPE WORKDIR; do
    case $setting in
      TPU_NAME) value=$tpu_name ;;
      ZONE) value=$zone ;;
      PROJECT) value=$project ;;
      ACCELERATOR_TYPE) value=$accelerator_type ;;
      WORKDIR)
        if [[ $command == run && -z $workdir ]]; then
          missing+=", WORKDIR (gs://bucket/folder for the checkpoints)"
        fi
        continue
        ;;
    esac
    if [[ -z $value ]]; then
      missing+=", $setting"
    elif [[ ! $value =~ ^[a-z0-9][-a-z0-9.:]*$ ]]; then
      refuse "$setting is '$value': expected lower-case letters, digits and dashes, for example my-tpu"
    fi
  done
  if [[ -n $missing ]]; then
    refuse "not set: ${missing#, }; set them in the environment or as options such as --tpu-name my-tpu"
  fi
  check_type
  case $provision in
    spot | on-demand) ;;
    flex-start) if ((max_seconds == 0)); then refuse "--provision flex-start needs --max-hours"; fi ;;
    *) refuse "unknown --provision '$provision': expected spot, on-demand or flex-start" ;;
  esac
  check_options
  if [[ -n ${FREPO_CALL_SECONDS:-} ]]; then whole_number FREPO_CALL_SECONDS "$FREPO_CALL_SECONDS" 1; fi
  if [[ $command == run ]]; then
    check_run
  elif [[ -n $recipe ]]; then
    refuse "unexpected argument '$recipe': $command takes only options"
  fi
  if [[ -z $dry ]] && ! command -v gcloud >/dev/null; then
    refuse "gcloud is not installed: install the Google Cloud CLI (https://cloud.google.com/sdk)"
  fi
}

# Refuses options that the command would ignore: `create --delete-when-done` would delete nothing.
check_options() {
  local option only
  for option in ${given[@]+"${given[@]}"}; do
    only=$command
    case $option in
      --create | --recreate | --delete-when-done | --latest | --no-plan) only=run ;;
      --setup | --env | --attempts) only=run ;;
      --worker) only=logs ;;
    esac
    if [[ $only != "$command" ]]; then refuse "$command does not take $option: it is for $only"; fi
  done
}

check_run() {
  local word problem
  case $workdir in
    gs://?* | /?*) ;;
    *) refuse "WORKDIR is '$workdir': expected gs://..., or an absolute path that all workers share" ;;
  esac
  if [[ -f $root/gin/$recipe ]]; then
    recipe_here=$root/gin/$recipe # the program on the workers finds it by its name
  elif [[ -f $root/gin/$recipe.gin ]]; then
    recipe=$recipe.gin
    recipe_here=$root/gin/$recipe
  elif [[ -f $recipe ]]; then
    recipe_file=$recipe
    recipe_here=$recipe
    recipe=launch_recipe/${recipe##*/}
  else
    for word in run create status logs stop delete; do
      if (($(distance "$recipe" "$word") <= 2)); then
        refuse "'$recipe' is neither a recipe nor a command: did you mean $word? see --help"
      fi
    done
    refuse "recipe '$recipe' does not exist: expected a .gin file, or the name of one in $root/gin"
  fi
  if [[ -n $setup ]] && ! problem=$(bash -n -- "$setup" 2>&1); then
    refuse "--setup '$setup' is not a bash script: ${problem%%$'\n'*}"
  fi
  if [[ -n $setup && -n $data_dir ]]; then # first, so that --env may override it
    variables=("DATA_DIR=$data_dir" ${variables[@]+"${variables[@]}"})
  fi
}

# Checks what only programs of this machine can say: the SSH key, and whether the recipe with all its
# settings suits the devices of the pod. All of this would otherwise fail after hours in the queue.
check_here() {
  local stale='' told known
  if [[ -z $dry ]]; then check_ssh_key; fi
  if [[ -z $devices ]]; then
    say "the recipe is not checked before the start: the devices of $accelerator_type are not known here"
    return 0
  fi
  if ! { venv_works && installed base; }; then
    if [[ -n $dry ]]; then
      show_env base
      stale=yes
    elif ! (ensure_env base); then
      stale=yes
    fi
  fi
  # Of hardware, the program also checks that the recipe fits into its memory.
  told=$hardware
  if [[ -n $no_plan ]]; then told=$devices; fi
  find_workdir
  run_check distill "$recipe_here" --dry-run "--devices=$told" ${known:+--workdir "$known"}
}

# Sets `known` to a folder with the settings that WORKDIR was started with, if this machine can read them: the
# workers would refuse other settings.
find_workdir() {
  known=''
  case $workdir in
    gs://*)
      mkdir -p -- "$scratch/workdir"
      if [[ -z $dry ]] && call out storage cp --quiet "${workdir%/}/identity.json" "$scratch/workdir/"; then
        known=$scratch/workdir
      fi
      ;;
    *) if [[ -f $workdir/identity.json ]]; then known=$workdir; fi ;;
  esac
}

# Runs frepo-scale with "$@" and the recipe's settings, and ends with its code if it refuses them. If .venv is
# not what pyproject.toml asks for (`stale`), its program may still be able to say.
run_check() {
  local code=127 check problem
  check=("$venv/bin/frepo-scale" "$@" ${data_dir:+"--gin.DATA_DIR=$data_dir"}
    ${arguments[@]+"${arguments[@]}"})
  if [[ -n $stale && -n $dry ]]; then show "${check[@]}"; fi
  if [[ -x ${check[0]} ]]; then
    code=0
    # Its own output would be in the way of the commands that --dry-run prints.
    "${check[@]}" </dev/null >"$scratch/check" 2>"$scratch/problem" || code=$?
    problem=$(<"$scratch/problem")
    if [[ -n $problem ]]; then printf '%s\n' "${problem//"$scratch/workdir"/"$workdir"}" >&2; fi
  fi
  if ((code == 0)); then return 0; fi
  if [[ -z $stale ]] || ((code == 2)); then exit "$code"; fi
  problem=$(show "${check[@]}")
  say "THE RECIPE WAS NOT CHECKED: there is no program in .venv that runs (code $code). To check it:" \
    "launch/python_env.sh --install-only && ${problem//"$scratch/workdir"/"$workdir"}"
}

# gcloud without an account fails in every call, as it does without a network.
check_login() {
  if [[ -n $dry ]] || ! call out auth list '--filter=status:ACTIVE' '--format=value(account)'; then
    return 0
  fi
  if [[ ! -s $scratch/out ]]; then refuse "gcloud is not logged in: run gcloud auth login"; fi
}

# gcloud refuses to use an SSH key with several workers if an agent runs that does not hold it. Without an
# agent, a key with a passphrase would ask for it where nobody answers.
check_ssh_key() {
  local key=$HOME/.ssh/google_compute_engine held print
  if ! command -v ssh-add >/dev/null || ! command -v ssh-keygen >/dev/null; then return 0; fi
  if held=$(ssh-add -l 2>/dev/null); then
    if [[ ! -e $key ]]; then
      refuse "your SSH agent holds keys, but the key of gcloud does not exist yet, and gcloud would refuse" \
        "it later: make it with ssh-keygen -t rsa -f $key -N '' && ssh-add $key"
    fi
    print=$(ssh-keygen -lf "$key" 2>/dev/null | cut -d ' ' -f 2) || print=''
    if [[ -n $print && $held != *"$print"* ]]; then
      refuse "your SSH agent does not hold the key of gcloud, which it needs to reach several workers:" \
        "add it with ssh-add $key"
    fi
  elif [[ -e $key ]] && ! ssh-keygen -y -P '' -f "$key" >/dev/null 2>&1; then
    refuse "the SSH key of gcloud has a passphrase, and no agent holds it:" \
      "start one and add the key with eval \"\$(ssh-agent)\" && ssh-add $key"
  fi
}
