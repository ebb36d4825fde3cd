#!/usr/bin/env bash
# Runs a distillation on all GPUs of this machine and restarts it after interruptions.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/gpu_node.sh [options] RECIPE.gin [args...]

Runs a distillation with RECIPE.gin on all GPUs of this machine, in one process, under
launch/supervise.sh, which restarts it if it ends with 42 (stopped and saved) or by a signal. SIGTERM
and Ctrl-C to this command save the run and end it. Options may also follow RECIPE.gin; the args that
are none of them, and everything after --, are passed to `frepo-scale distill`.
  launch/gpu_node.sh cifar10_ipc10.gin --workdir runs/a
Requires JAX with CUDA in .venv; install it once: .venv/bin/pip install "jax[cuda13]"

options:
  --per-gpu       one process for each GPU; their output is in WORKDIR/logs/process-P.log, for a WORKDIR
                  gs://... in runs/NAME/logs, where NAME is the last part of WORKDIR
  --gpus N        the number of processes, only with --per-gpu (default: the number of GPUs, from
                  CUDA_VISIBLE_DEVICES or nvidia-smi). Without --per-gpu all visible GPUs are used.
  --grace SECONDS as in launch/processes.sh; only with --per-gpu
  --attempts N --pause SECONDS    as in launch/supervise.sh
  --dry-run       print the command without running it
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

per_gpu='' gpus='' dry='' supervised=() group=()
flags=(-h --help --per-gpu --dry-run) valued=(--gpus --grace --attempts --pause)
set_option() {
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --per-gpu) per_gpu=yes ;;
    --dry-run) dry=yes ;;
    *)
      whole_number "$1" "$2" "$([[ $1 == --gpus || $1 == --attempts ]] && echo 1 || echo 0)"
      case $1 in
        --gpus) gpus=$2 ;;
        --grace) group+=("$1" "$2") ;;
        *) supervised+=("$1" "$2") ;;
      esac
      ;;
  esac
}
read_options "$@"
if [[ -z $recipe ]]; then refuse "no RECIPE given: expected a .gin file, or the name of one in gin/"; fi
if [[ -z $per_gpu && -n $gpus ]]; then
  refuse "--gpus without --per-gpu: one process uses all visible GPUs; set CUDA_VISIBLE_DEVICES to use fewer"
elif [[ -z $per_gpu ]] && ((${#group[@]})); then
  refuse "--grace without --per-gpu: there is one process only"
fi

if [[ -n $gpus ]]; then
  :
elif [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
elif command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L | grep -c '^GPU ' || true)
fi
if [[ -z $gpus || $gpus == 0 ]]; then
  if [[ -n $per_gpu ]]; then
    refuse "no GPU found (nvidia-smi -L lists none): install the driver, or give --gpus N"
  elif [[ -z $dry ]]; then
    refuse "no GPU found (nvidia-smi -L lists none): install the driver, or use launch/local.sh"
  fi
fi

# Without it, a JAX without CUDA or without a GPU would silently run on the CPU.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}

set -- "$recipe" ${arguments[@]+"${arguments[@]}"}
workdir=$(workdir_of distill "$@")
command=("$venv/bin/frepo-scale" distill "$@")
if [[ -n $per_gpu ]]; then
  logs=$workdir/logs
  case $workdir in gs://*) logs=runs/$(basename -- "$workdir")/logs ;; esac
  say "the output of all processes is in $logs"
  command=("$root/launch/processes.sh" --gpu-each --logs "$logs" ${group[@]+"${group[@]}"} "$gpus"
    -- "${command[@]}")
fi
command=("$root/launch/supervise.sh" ${supervised[@]+"${supervised[@]}"} --saved-in "$workdir"
  -- "${command[@]}")

if [[ -n $dry ]]; then
  show env "JAX_PLATFORMS=$JAX_PLATFORMS" "${command[@]}"
  exit 0
fi
ensure_env base
exec "${command[@]}"
