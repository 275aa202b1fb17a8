#!/usr/bin/env bash
# A training on all hosts of a TPU VM, with Google's gcloud, which must be installed and signed in.
#
#     scripts/cloud/tpu_vm.sh create NAME ZONE v5litepod-16 [--spot]
#     scripts/cloud/tpu_vm.sh setup  NAME ZONE                          copies this folder to every host and installs it
#     scripts/cloud/tpu_vm.sh run    NAME ZONE --config=configs/celeba64.py --workdir=/mnt/shared/runs/x
#     scripts/cloud/tpu_vm.sh log    NAME ZONE                          what the first host says
#     scripts/cloud/tpu_vm.sh stop   NAME ZONE                          saves, and ends
#     scripts/cloud/tpu_vm.sh delete NAME ZONE
#
# `run` starts the command on every host and begins it again wherever it ends for want of a machine, until it is done.
# The workdir must lie where all hosts see it: a Filestore or gcsfuse mount (docs/cloud.md).
set -euo pipefail

usage() {
    sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p;}' "$0" >&2
    exit 2
}
[ $# -ge 3 ] || usage
action=$1 name=$2 zone=$3
shift 3
tpu=(gcloud compute tpus tpu-vm)
here=$(cd "$(dirname "$0")/../.." && pwd)

on_all() { "${tpu[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"; }

case $action in
    create)
        [ $# -ge 1 ] || usage
        "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$1" --version=v2-alpha-tpuv5-lite "${@:2}"
        ;;
    setup)
        archive=$(mktemp -d)/ddpm_jax.tgz
        git -C "$here" archive --format=tar.gz --output="$archive" HEAD
        "${tpu[@]}" scp "$archive" "$name:ddpm_jax.tgz" --zone="$zone" --worker=all
        on_all 'mkdir -p ddpm_jax && tar xzf ddpm_jax.tgz -C ddpm_jax && ddpm_jax/scripts/setup && ddpm_jax/.venv/bin/pip install "jax[tpu]"'
        ;;
    run)
        [ $# -ge 1 ] || usage
        flags=$(printf ' %q' "$@")
        # 0: done. 1: diverged. 2: something to mend. 130 and 143: stopped. Whatever else is a machine's fault.
        on_all "cd ddpm_jax && nohup bash -c 'while :; do .venv/bin/python main.py$flags; case \$? in 0|1|2|130|143) break;; esac; sleep 10; done' > train.out 2>&1 &"
        ;;
    log) "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 --command='tail -n 40 -f ddpm_jax/train.out' ;;
    stop) on_all 'pkill --signal TERM --full main.py' ;;
    delete) "${tpu[@]}" delete "$name" --zone="$zone" ;;
    *) usage ;;
esac
