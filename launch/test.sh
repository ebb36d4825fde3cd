#!/usr/bin/env bash
# Checks everything a change must pass; the last line is the test runner's.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/test.sh [--with-pytorch] [pytest arguments...]

Runs the linter, the formatter, the type checker and the check of shell scripts, then the tests. Without
arguments it runs all tests; with arguments, those that pytest selects. Paths are relative to the repository:
  launch/test.sh                  34 minutes of processor time, shared by two processes
  launch/test.sh -m 'not slow'    6 minutes of processor time
  launch/test.sh tests/core
Tests run in two processes (pytest -n 2). Other choices: -n 4, or -n 0 for one process; --pdb, --trace, -s and
--collect-only imply -n 0. Compiled programs are discarded at the end; with JAX_COMPILATION_CACHE_DIR set to a
folder they are stored in it, and the next session needs less time.
--with-pytorch installs PyTorch for the tests of the hand-over to it, which are skipped without; continuous
integration does so.
The script uses the repository's .venv and creates it if necessary, like launch/local.sh. On Linux x86-64 it
also installs the TPU compiler into .venv/tpu_compiler (0.7 GB), for the test that compiles for TPUs. It stops
with a non-zero exit code at the first step that fails.
END
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit 0
fi

pytorch=''
if [[ ${1-} == --with-pytorch ]]; then pytorch=yes && shift; fi

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"
ensure_env dev
ensure_tpu_compiler
if [[ -n $pytorch ]]; then ensure_pytorch; fi

cd -- "$root"
"$venv/bin/python" -m ruff check .
"$venv/bin/python" -m ruff format --check .
"$venv/bin/python" -m mypy
"$venv/bin/shellcheck" -x launch/*.sh launch/examples/*.sh launch/slurm.sbatch .ci/run

# A file's tests stay in one process: they share fixtures. tests/conftest.py puts slow files first.
parallel=(-n 2 --dist loadfile --no-loadscope-reorder)
for argument in "$@"; do
  case $argument in
    -n* | --numprocesses* | --dist*) parallel=(--dist loadfile --no-loadscope-reorder) ;;
    --pdb | --trace | -s | --capture=no | --co | --collect-only) parallel=(-n 0) && break ;;
    no:xdist | -pno:xdist) parallel=() && break ;;
  esac
done
exec "$venv/bin/python" -m pytest ${parallel[@]+"${parallel[@]}"} "$@"
