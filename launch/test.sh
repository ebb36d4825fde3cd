#!/usr/bin/env bash
# Checks everything a change must pass; the last line is the test runner's.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/test.sh [pytest args...]

Lint, format, types and shell scripts first, then the tests: all of them (half an hour on two cores), or
with arguments those that pytest selects by them, relative to the repository:
  launch/test.sh
  launch/test.sh -m 'not slow'
  launch/test.sh tests/core
Uses the repository's .venv and makes it where needed, like launch/local.sh; on Linux x86-64 it also
puts the TPU compiler into .venv/tpu_compiler (0.7 GB), for the test that compiles for TPUs. Ends non-zero at the
first of these that fails.
END
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit 0
fi

# shellcheck source=launch/python_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/python_env.sh"
ensure_env dev
ensure_tpu_compiler

cd -- "$root"
"$venv/bin/python" -m ruff check .
"$venv/bin/python" -m ruff format --check .
"$venv/bin/python" -m mypy
"$venv/bin/shellcheck" -x launch/*.sh launch/slurm.sbatch .ci/run
exec "$venv/bin/python" -m pytest "$@"
