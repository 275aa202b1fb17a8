#!/usr/bin/env bash
# Trains on all hosts of a TPU VM, through Google's gcloud, which must be installed and signed in.
#
#     scripts/cloud/tpu_vm.sh create NAME ZONE v5litepod-16 v2-alpha-tpuv5-lite [--spot]
#     scripts/cloud/tpu_vm.sh setup  NAME ZONE                          copies the newest commit to every host and installs it
#     scripts/cloud/tpu_vm.sh each   NAME ZONE gcloud storage cp -r gs://BUCKET/celeba .       runs a command on every host
#     scripts/cloud/tpu_vm.sh run    NAME ZONE --config=configs/celeba64.py --workdir=gs://BUCKET/runs/x
#     scripts/cloud/tpu_vm.sh log    NAME ZONE                          follows the log of the first host
#     scripts/cloud/tpu_vm.sh stop   NAME ZONE                          saves and stops the run
#     scripts/cloud/tpu_vm.sh delete NAME ZONE
#
# `run` starts the command on every host, and restarts it there until it finishes, is stopped, diverges, or reports a mistake
# to fix. If the TPU VM itself was preempted, create it again, set it up and run the same command. The last argument of
# `create` is the software version that Google lists for the accelerator type. All hosts must see the workdir, such as a bucket (docs/cloud.md).
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
        [ $# -ge 2 ] || usage
        "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$1" --version="$2" "${@:3}"
        ;;
    setup)
        archive=$(mktemp -d)/ddpm_jax.tgz
        git -C "$here" archive --format=tar.gz --output="$archive" HEAD
        "${tpu[@]}" scp "$archive" "$name:ddpm_jax.tgz" --zone="$zone" --worker=all
        on_all 'mkdir -p ddpm_jax && tar xzf ddpm_jax.tgz -C ddpm_jax && ddpm_jax/scripts/setup && ddpm_jax/.venv/bin/pip install "jax[tpu]" -r ddpm_jax/requirements-cloud.txt'
        ;;
    each)
        [ $# -ge 1 ] || usage
        on_all "cd ddpm_jax &&$(printf ' %q' "$@")"
        ;;
    run)
        [ $# -ge 1 ] || usage
        # 0: done. 1: diverged. 2: a mistake to fix. 129, 130, 138, 143: stopped. Any other code: a machine failed.
        loop='while :; do .venv/bin/python main.py "$@"; case $? in 0|1|2|129|130|138|143) break;; esac; sleep 10; done'
        on_all "cd ddpm_jax; nohup bash -c$(printf ' %q' "$loop" loop "$@") </dev/null >>train.out 2>&1 &"
        ;;
    log) "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 --command='tail -n 40 -f ddpm_jax/train.out' ;;
    stop) on_all 'pkill --signal TERM --full main.py' ;;
    delete) "${tpu[@]}" delete "$name" --zone="$zone" ;;
    *) usage ;;
esac
