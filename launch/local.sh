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

With --dry-run among the arguments nothing is changed: `frepo-scale distill --dry-run` tells what it
would do or, where it is not installed yet, this prints the commands that would be run.

environment:
  PYTHON                the interpreter to make .venv with, tried before those on PATH
  OPENBLAS_NUM_THREADS  1 unless set: more is usually far slower
  GLIBC_TUNABLES        large pages for large blocks unless set
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/policy.sh
source "$here/policy.sh"

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

dry=''
words=()
for word in "$@"; do
  if [[ $word == --dry-run ]]; then dry=yes; else words+=("$word"); fi
done
if [[ -n $dry ]] && ! { venv_works && installed base; }; then
  show_env base
  show env "OPENBLAS_NUM_THREADS=$OPENBLAS_NUM_THREADS" "GLIBC_TUNABLES=$GLIBC_TUNABLES" \
    "TF_CPP_MIN_LOG_LEVEL=$TF_CPP_MIN_LOG_LEVEL" \
    "$venv/bin/frepo-scale" distill "$recipe" ${words[@]+"${words[@]}"}
  exit 0
fi
ensure_env base
exec "$venv/bin/frepo-scale" distill "$recipe" "$@"
