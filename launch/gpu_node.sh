#!/usr/bin/env bash
# Distils on all GPUs of this machine, and goes on after interruptions.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/gpu_node.sh [options] RECIPE.gin [args...]

Distils with RECIPE.gin on all GPUs of this machine, in one process, under launch/supervise.sh,
which starts it again after a SIGTERM or a crash. The args go to `frepo-scale distill`.
  launch/gpu_node.sh cifar10_ipc10.gin --workdir runs/a
Needs jax with CUDA in .venv, once: .venv/bin/pip install "jax[cuda13]"

options:
  --per-gpu       one process for each GPU; their output is in WORKDIR/logs/process-P.log
  --gpus N        how many GPUs there are (default: nvidia-smi, or CUDA_VISIBLE_DEVICES, says it)
  --grace SECONDS --attempts N --pause SECONDS    as in launch/processes.sh and supervise.sh
  --dry-run       print what would be run, and run nothing
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

per_gpu='' gpus='' dry='' supervised=() group=()
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --per-gpu) per_gpu=yes ;;
    --dry-run) dry=yes ;;
    --gpus | --grace | --attempts | --pause)
      if (($# < 2)); then refuse "$1 has no value: give one, as in $1 3"; fi
      whole_number "$1" "$2" "$([[ $1 == --gpus || $1 == --attempts ]] && echo 1 || echo 0)"
      case $1 in
        --gpus) gpus=$2 ;;
        --grace) group+=("$1" "$2") ;;
        *) supervised+=("$1" "$2") ;;
      esac
      shift
      ;;
    -*) refuse "option '$1' is unknown: see --help; those of the program come after RECIPE.gin" ;;
    *) break ;;
  esac
  shift
done
if (($# == 0)); then refuse "no RECIPE: name a .gin file, or one under gin/"; fi

if [[ -n $gpus ]]; then
  :
elif [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
elif command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L | grep -c '^GPU ' || true)
fi
if [[ -z $gpus || $gpus == 0 ]]; then
  refuse "no GPU is here (nvidia-smi -L shows none): install the driver, or say --gpus N," \
    "or take launch/local.sh"
fi

# Without it a jax that lacks CUDA, or finds no GPU, would quietly take the CPU, for weeks.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}

workdir=$(workdir_of distill "$@")
command=("$venv/bin/frepo-scale" distill "$@")
if [[ -n $per_gpu ]]; then
  logs=$workdir/logs
  case $workdir in gs://*) logs=runs/$(basename -- "$workdir")/logs ;; esac
  say "the output of every process goes to $logs"
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
