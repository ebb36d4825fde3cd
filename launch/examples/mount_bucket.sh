#!/usr/bin/env bash
# For launch/tpu_pod.sh --setup: puts the data of a bucket at DATA_DIR on every worker.
#   launch/tpu_pod.sh --setup launch/examples/mount_bucket.sh --data-dir /mnt/disk/imagenet64 \
#     --env DATA_BUCKET=gs://my-bucket/imagenet64 ...
# It copies the folder (16 GB for ImageNet-1K at 64 px), because a run reads from it at every step.
# With --env DATA_MODE=mount it mounts it with Cloud Storage FUSE instead, for data that do not fit on the
# disk; every read then goes over the network, so watch input_wait_fraction. It may run any number of times.
# An exit code of 2 is wrong input, and ends the run; after any other failure it is tried again.
set -euo pipefail

fail() {
  echo "mount_bucket.sh: $*" >&2
  exit 2
}
if [[ ${DATA_DIR:-} != /?* ]]; then
  fail "DATA_DIR is '${DATA_DIR:-}': give --data-dir with an absolute path"
elif [[ ${DATA_BUCKET:-} != gs://?* ]]; then
  fail "DATA_BUCKET is '${DATA_BUCKET:-}': give --env DATA_BUCKET=gs://..."
fi

sudo mkdir -p -- "$DATA_DIR"
case ${DATA_MODE:-copy} in
  copy)
    sudo chown "$(id -un)" "$DATA_DIR"
    gcloud storage rsync --recursive "$DATA_BUCKET" "$DATA_DIR" # only what is missing or differs
    ;;
  mount)
    if mountpoint --quiet "$DATA_DIR"; then exit 0; fi
    if ! command -v gcsfuse >/dev/null; then
      key=/usr/share/keyrings/cloud.google.asc
      packages=https://packages.cloud.google.com/apt
      curl --silent --show-error --fail "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
      echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
      sudo apt-get update -qq
      sudo apt-get install -qq -y gcsfuse
    fi
    sudo chown "$(id -un)" "$DATA_DIR"
    bucket=${DATA_BUCKET#gs://}
    folder=${bucket#"${bucket%%/*}"}
    folder=${folder#/}
    gcsfuse -o ro --implicit-dirs ${folder:+--only-dir "$folder"} "${bucket%%/*}" "$DATA_DIR"
    ;;
  *) fail "DATA_MODE is '$DATA_MODE': expected copy or mount" ;;
esac
