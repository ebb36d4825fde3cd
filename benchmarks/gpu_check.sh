#!/usr/bin/env bash
# Packs the files that gpu_check.py needs on a GPU machine without a network, and prints its command.
set -euo pipefail

# Packages that such a machine may lack. It has JAX for its card, Flax, Optax, Orbax, pytest,
# scikit-learn, OpenCV, Matplotlib, tqdm and TensorBoard. TensorFlow is not needed. The dependencies of
# these packages are in this list or on the machine (tests/benchmarks/test_gpu_environment.py).
packages=(array_record clu gin-config grain ml_collections portpicker simplejpeg)
python_version=3.12
python=${PYTHON:-python3}
out=.gpu_check
fashion_mnist=''
cifar10=''
most=$((60 * 1024 * 1024)) # bytes

usage() {
  cat <<'END'
usage: benchmarks/gpu_check.sh [--fashion-mnist DIR] [--cifar10 TAR] [--out DIR] [--python-version V]

Writes to DIR (default: .gpu_check, which git ignores): wheels for Linux x86-64 and Python V (default:
3.12), a wheel of this project for its version number, the four idx files of Fashion-MNIST from
--fashion-mnist, and the CIFAR-10 archive of --cifar10. At most 60 MiB. Then prints the commands to
run on the GPU machine, in the repository root, after DIR is copied to it.
END
}

fail() {
  printf 'gpu_check.sh: %s\n' "$*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --fashion-mnist | --cifar10 | --out | --python-version)
      (($# > 1)) || fail "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" %s "$2"
      shift 2
      ;;
    *) fail "unknown argument $1 (see --help)" ;;
  esac
done
[[ $out != /* ]] || fail "--out $out: a path below the repository root is needed, since it is copied"

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
here=$PWD
absolute() { case $1 in /*) printf %s "$1" ;; *) printf %s "$here/$1" ;; esac; }
[[ -z $fashion_mnist ]] || fashion_mnist=$(absolute "$fashion_mnist")
[[ -z $cifar10 ]] || cifar10=$(absolute "$cifar10")
cd -- "$root"

# Checked before anything is downloaded.
idx=()
if [[ -n $fashion_mnist ]]; then
  for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    for file in "$fashion_mnist/$name-ubyte.gz" "$fashion_mnist/$name-ubyte"; do
      [[ -f $file ]] && break
    done
    [[ -f $file ]] || fail "--fashion-mnist $fashion_mnist: no $name-ubyte[.gz]"
    idx+=("$file")
  done
fi
[[ -z $cifar10 || -f $cifar10 ]] || fail "--cifar10 $cifar10: no such file"

[[ ! -e $out || -f $out/made-by-gpu_check ]] || fail "--out $out exists and is not of this script"
rm -rf -- "$out"
mkdir -p -- "$out/wheels"
: >"$out/made-by-gpu_check"
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
"$python" -m pip download -q --no-deps --only-binary=:all: --implementation cp \
  --python-version "$python_version" "${platforms[@]}" -d "$out/wheels" "${packages[@]}"
# The checkout itself runs on the machine; this gives the program its version number.
"$python" -m pip wheel -q --no-deps -w "$out/wheels" .
if ((${#idx[@]})); then
  mkdir -- "$out/fashion-mnist"
  cp -- "${idx[@]}" "$out/fashion-mnist/"
fi
data=''
if [[ -n $cifar10 ]]; then
  data=$out/${cifar10##*/}
  cp -- "$cifar10" "$data"
fi

size=0
while IFS= read -r bytes; do size=$((size + bytes)); done < <(find "$out" -type f -printf '%s\n')
printf '%s: %d files, %d MiB\n' "$out" "$(find "$out" -type f | wc -l)" $((size >> 20)) >&2
((size <= most)) || fail "$out is larger than $((most >> 20)) MiB: give fewer data sets"

# The wheels are installed in a separate folder, before the machine's packages but after the checkout.
command="s=\$(mktemp -d) && python3 -m pip install -q --no-index --no-deps --no-compile --target \"\$s\""
command+=" $out/wheels/*.whl && PYTHONPATH=\"\$PWD:\$s\" python3 benchmarks/gpu_check.py --minutes 9"
command+=" --out \"\${OUT:-gpu_results}\""
printf 'First time:\n\n%s%s\n' "$command" \
  "${idx[*]:+ --recipe fashion_mnist_ipc10.gin --data-dir $out/fashion-mnist}"
if [[ -n $data ]]; then
  printf '\nSecond time (the last part with another recipe; --minutes 4 does, too):\n\n%s%s\n' \
    "$command" " --parts useful --recipe cifar10_ipc10.gin --data-dir $data"
fi
