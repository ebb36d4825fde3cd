#!/usr/bin/env bash
# The Python environment of the launch scripts: sourced by them, or run to install it only.
#
# It is in .venv at the top of the repository. Stamp files in it record what is installed. They are
# written when an installation is complete, so an interrupted installation is repeated.
# All calls are `python -I`: PYTHONPATH and files in the current directory have no effect.

set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

# On a CPU, JAX's LAPACK is SciPy's OpenBLAS. With several threads on busy cores a factorisation takes
# 2 to 50 times as long as with one thread.
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
# Huge pages for large blocks (glibc 2.35 and newer; others ignore it): XLA on a CPU allocates the
# memory of every step anew, and the page faults took a tenth of the time or more.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
# Errors only: TensorFlow prints messages to stderr at every start.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

# A script, and what it starts, must outlive the reader of its output (`| head`, a closed terminal).
trap '' PIPE
say() { printf 'frepo_scale: %s\n' "$*" >&2 || true; }

# Prints MAJOR.MINOR; fails if $1 is not a working Python, such as a pyenv shim of a missing version.
python_version() { "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

supported() { [[ $1 == 3.11 || $1 == 3.12 || $1 == 3.13 ]]; }

# Prints the path of the first Python that can create the environment. For a Python in a virtual
# environment (perhaps the .venv to be replaced) this is its base interpreter. If there is none, prints
# one line to stderr and returns 2.
find_python() {
  local candidate version path found='' bare=''
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    version=$(python_version "$candidate") || continue
    if ! supported "$version"; then
      if [[ ", $found," != *", $version,"* ]]; then found+="${found:+, }$version"; fi
    elif path=$("$candidate" -I -c 'import ensurepip, sys, venv; print(sys._base_executable)' \
      2>/dev/null); then
      if [[ -n ${PYTHON:-} && $candidate != "$PYTHON" ]]; then
        say "PYTHON=$PYTHON is not usable (expected Python 3.11 to 3.13 with venv): using $path"
      fi
      printf '%s\n' "$path"
      return 0
    else
      bare=${bare:-$version}
    fi
  done
  if [[ -n $bare ]]; then
    say "found Python $bare without its venv module: install python$bare-venv" \
      "(Debian/Ubuntu: apt-get install python$bare-venv)"
  else
    say "needs Python 3.11, 3.12 or 3.13, found ${found:-none}: install one with its venv module" \
      "(Debian/Ubuntu: apt-get install python3-venv), or set PYTHON=/path/to/python3.12"
  fi
  return 2
}

# Whether .venv holds a complete environment of a supported version.
venv_works() {
  local version
  [[ ! -e $venv/being-made ]] && version=$(python_version "$venv/bin/python") &&
    supported "$version" && "$venv/bin/python" -I -c 'import pip' 2>/dev/null
}

# The exact versions of packages, with hashes, that an installation of $1 takes; nothing for the newest ones
# that pyproject.toml allows. A pod takes the same versions on all machines, also on those of next week.
latest=''
lock_of() {
  if [[ $1 == tpu && -z $latest && -f $root/requirements/tpu.txt ]]; then
    printf '%s\n' "$root/requirements/tpu.txt"
  fi
}

# What an installation of $1 depends on: the requirements and the path of the editable package.
fingerprint() {
  local lock
  lock=$(lock_of "$1")
  "$venv/bin/python" -I -c '
import hashlib, sys
digest = hashlib.sha256()
for name in sys.argv[1:]:
    digest.update(open(name, "rb").read())
print(digest.hexdigest(), sys.argv[1])
' "$root/pyproject.toml" ${lock:+"$lock"}
}

# Whether the requirements $1 ("base", "dev" or "tpu") are installed; those of base also with dev or tpu.
installed() {
  local kind kinds=("$1")
  if [[ $1 == base ]]; then kinds=(base dev tpu); fi
  if [[ ! -x $venv/bin/frepo-scale ]]; then return 1; fi
  for kind in "${kinds[@]}"; do
    if [[ -s $venv/installed-$kind && $(<"$venv/installed-$kind") == "$(fingerprint "$kind")" ]]; then
      return 0
    fi
  done
  return 1
}

# Prints what is installed for $1: an environment with the packages for tests keeps them, so that after a
# change of pyproject.toml the next launch and the next test install once.
set_for() {
  if [[ $1 == base && -e $venv/installed-dev ]]; then printf 'dev\n'; else printf '%s\n' "$1"; fi
}

# Removes a broken environment.
clear_venv=(find "$venv/" -mindepth 1 -maxdepth 1 ! -name being-made ! -name lock -exec rm -rf -- {} +)

make_venv() { # with the Python $1
  say "creating .venv with $1"
  : >"$venv/being-made"
  "${clear_venv[@]}"
  "$1" -I -m venv "$venv" >&2
  rm -- "$venv/being-made"
}

# Prints one command a line that together install $1 ("base", "dev" or "tpu") in the repository's folder.
# Requires `show` of options.sh.
install_commands() {
  local what=. lock pip=("$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check)
  if [[ $1 != base ]]; then what=".[$1]"; fi
  lock=$(lock_of "$1")
  if [[ -n $lock ]]; then
    show "${pip[@]}" --require-hashes -r "$lock"
    show "${pip[@]}" --no-deps -e .
  else
    show "${pip[@]}" -e "$what"
  fi
}

install() { # "base", "dev" or "tpu"
  local stamp base_stamp
  say "installing frepo_scale and its requirements into .venv; this takes a minute or two"
  rm -f -- "$venv/installed-base" "$venv/installed-dev" "$venv/installed-tpu"
  stamp=$(fingerprint "$1") # before the installation: a later change of the files counts
  base_stamp=$(fingerprint base)
  (set -e && cd -- "$root" && eval "$(install_commands "$1")" >&2) || {
    say "the installation failed, see above; the next start repeats it"
    exit 1 # pip's own status may be 2, which would mean wrong input
  }
  printf '%s\n' "$base_stamp" >"$venv/installed-base"
  if [[ $1 != base ]]; then printf '%s\n' "$stamp" >"$venv/installed-$1"; fi
}

# Installs the TPU compiler into .venv/tpu_compiler, in the version that the installed jax requires. It
# is separate from the packages: if JAX finds it, every program first tries to start a TPU.
ensure_tpu_compiler() {
  local wanted target=$venv/tpu_compiler
  wanted=$("$venv/bin/python" -I -c '
import importlib.metadata
for line in importlib.metadata.requires("jax"):
    name, _, marker = line.partition(";")
    if name.startswith("libtpu") and "\"tpu\"" in marker.replace(chr(39), chr(34)):
        print(name.strip())
')
  if [[ -z $wanted || $(uname -sm) != 'Linux x86_64' ]]; then
    say "there is no TPU compiler for this machine: the test that compiles for TPUs is skipped"
    return 0
  fi
  if [[ -s $target/installed && $(<"$target/installed") == "$wanted" ]]; then return 0; fi
  say "installing $wanted into .venv/tpu_compiler"
  rm -rf -- "$target"
  if "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$target" "$wanted" >&2; then
    printf '%s\n' "$wanted" >"$target/installed"
  else
    rm -rf -- "$target"
    say "the TPU compiler could not be installed: the test that compiles for TPUs is skipped"
  fi
}

# Installs PyTorch into .venv. On Linux x86-64 the newest release on the Python package index needs CUDA,
# several GB; a build for CPUs, where pip finds one of this version, is a tenth of it.
ensure_pytorch() {
  local wanted=torch==2.13.0
  if "$venv/bin/python" -I -c 'import torch' 2>/dev/null; then return 0; fi
  say "installing $wanted into .venv"
  if ! "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check "$wanted" >&2; then
    say "PyTorch could not be installed: the tests that need it are skipped"
  fi
}

# Prints the commands that ensure_env $1 would run, without running them.
show_env() {
  local python line what
  what=$(set_for "$1")
  if ! venv_works; then
    python=$(find_python)
    what=$1
    if [[ -d $venv ]]; then show "${clear_venv[@]}"; fi
    show "$python" -I -m venv "$venv"
  fi
  while IFS= read -r line; do
    printf '(%s && %s)\n' "$(show cd -- "$root")" "$line"
  done < <(install_commands "$what")
}

# Prepares .venv for $1: "base" (to run the program), "dev" (also to test it) or "tpu" (to run it on
# TPUs).
ensure_env() {
  local python=''
  if venv_works && installed "$1"; then return 0; fi
  if ! venv_works; then python=$(find_python); fi # before anything is written
  mkdir -p -- "$venv"
  (
    # One installation at a time; macOS has no flock, and some network file systems refuse it.
    if command -v flock >/dev/null && ! flock -n 9; then
      say "waiting for another launch that is preparing .venv"
      flock 9 || say "cannot lock .venv: continuing without a lock"
    fi
    if ! venv_works; then
      if [[ -z $python ]]; then python=$(find_python); fi
      make_venv "$python"
    fi
    if ! installed "$1"; then install "$(set_for "$1")"; fi
  ) 9>>"$venv/lock"
}

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then return 0; fi

usage() {
  cat <<'USAGE'
usage: launch/python_env.sh --install-only [base|dev|tpu] [--latest] [--dry-run]

Creates the repository's .venv and installs the package into it, as the first start of a launcher does,
and runs nothing else: for a login node or an image, if the machines that run it have no network. base
(the default) runs the program, dev also tests it, and tpu runs it on TPUs, with the versions of
requirements/tpu.txt, or with --latest the newest ones that pyproject.toml allows.
USAGE
}

# shellcheck source=launch/options.sh
source "$root/launch/options.sh"
asked='' dry=''
flags=(-h --help --install-only --latest --dry-run) valued=()
# shellcheck disable=SC2317,SC2329  # called by read_options
set_option() {
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --install-only) asked=yes ;;
    --latest) latest=yes ;;
    --dry-run) dry=yes ;;
  esac
}
read_options "$@"
kind=${recipe:-base}
if [[ -z $asked ]]; then refuse "nothing to do: expected --install-only; see --help"; fi
if ! among "$kind" base dev tpu || ((${#arguments[@]})); then
  refuse "cannot install '$kind${arguments[0]+ ${arguments[0]}}': expected base, dev or tpu"
fi
if [[ -z $dry ]]; then
  ensure_env "$kind"
elif ! { venv_works && installed "$kind"; }; then
  show_env "$kind"
fi
