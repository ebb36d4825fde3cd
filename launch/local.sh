#!/usr/bin/env bash
# Distils on this machine: one command from a fresh clone.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/local.sh [RECIPE.gin [args...]]

Distils with RECIPE.gin (digits_ipc1.gin if none is given) on this machine's CPU, GPUs or TPUs:
  launch/local.sh
  launch/local.sh cifar10_ipc10.gin --gin.STEPS=20000
The arguments after the recipe go to `frepo-scale distill`.

The command runs in the current directory. A relative RECIPE.gin is looked for there first, then
in the repository's gin/ folder; a relative workdir lies there.

The first start makes a Python environment in the repository's .venv (Python 3.11 to 3.13 with its
venv module) and installs into it; so does the first one after pyproject.toml changed.

environment:
  PYTHON                the interpreter to make .venv with, tried before those on PATH
  OPENBLAS_NUM_THREADS  1 unless set: more is usually far slower
END
}

# shellcheck source=launch/python_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/python_env.sh"

recipe=digits_ipc1.gin
case ${1-} in
  -h | --help)
    usage
    exit 0
    ;;
  '') if (($#)); then shift; fi ;; # an empty recipe is none
  -*) ;;                           # arguments only: the default recipe
  *)
    recipe=$1
    shift
    ;;
esac

ensure_env base
exec "$venv/bin/frepo-scale" distill "$recipe" "$@"
