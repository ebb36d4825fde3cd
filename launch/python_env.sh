# shellcheck shell=bash
# The Python environment of the launch scripts; sourced, not run.
#
# It is in .venv at the top of the repository. Stamp files in it record what is installed. They are
# written when an installation is complete, so an interrupted installation is repeated.
# All calls are `python -I`: PYTHONPATH and files in the current directory have no effect.

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

# A closed stderr must not end the script.
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

# What an installation depends on: the requirements and the path of the editable package.
fingerprint() {
  "$venv/bin/python" -I -c '
import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(), sys.argv[1])
' "$root/pyproject.toml"
}

# Whether the requirements $1 ("base", "dev" or "tpu") are installed.
installed() {
  [[ -x $venv/bin/frepo-scale && -s $venv/installed-$1 ]] &&
    [[ $(<"$venv/installed-$1") == "$(fingerprint)" ]]
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

# Sets `pip_words` to the command that installs $1 ("base", "dev" or "tpu") in the repository's folder.
pip_words_of() {
  local what=.
  if [[ $1 != base ]]; then what=".[$1]"; fi
  pip_words=("$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check -e "$what")
}

install() { # "base", "dev" or "tpu"
  local stamp pip_words
  pip_words_of "$1"
  say "installing frepo_scale and its requirements into .venv; this takes a minute or two"
  rm -f -- "$venv/installed-base" "$venv/installed-dev" "$venv/installed-tpu"
  stamp=$(fingerprint) # before the installation: a later change of the file counts
  (cd -- "$root" && "${pip_words[@]}" >&2) || {
    say "the installation failed, see above; the next start repeats it"
    exit 1 # pip's own status may be 2, which would mean wrong input
  }
  printf '%s\n' "$stamp" >"$venv/installed-base"
  if [[ $1 != base ]]; then printf '%s\n' "$stamp" >"$venv/installed-$1"; fi
}

# Installs the TPU compiler into .venv/tpu_compiler, in the version that the installed jax requires. It
# is separate from the packages: if JAX finds it, every program first tries to start a TPU.
ensure_tpu_compiler() {
  local wanted place=$venv/tpu_compiler
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
  if [[ -s $place/installed && $(<"$place/installed") == "$wanted" ]]; then return 0; fi
  say "installing $wanted into .venv/tpu_compiler"
  rm -rf -- "$place"
  if "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$place" "$wanted" >&2; then
    printf '%s\n' "$wanted" >"$place/installed"
  else
    rm -rf -- "$place"
    say "the TPU compiler could not be installed: the test that compiles for TPUs is skipped"
  fi
}

# Prints the commands that ensure_env $1 would run, without running them. Requires `show` of policy.sh.
show_env() {
  local python pip_words
  if ! venv_works; then
    python=$(find_python)
    if [[ -d $venv ]]; then show "${clear_venv[@]}"; fi
    show "$python" -I -m venv "$venv"
  fi
  pip_words_of "$1"
  printf '(%s && %s)\n' "$(show cd -- "$root")" "$(show "${pip_words[@]}")"
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
    if ! installed "$1"; then install "$1"; fi
  ) 9>>"$venv/lock"
}
