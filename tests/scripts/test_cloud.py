"""Jobs on clusters: sound shell scripts, a valid manifest, and requeueing by Slurm."""

import os
import random
import re
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from ddpm_jax.runtime.signals import SIGNALS
from tests.end_to_end.commands import RECIPE, ROOT, final_state, wait_for_checkpoint

SRUN = """#!/usr/bin/env bash
# Imitates Slurm's srun with two local tasks: it returns the highest exit code. After a failure,
# it kills the other task if that still runs eight seconds later.
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
shift
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" 2> "$FOLDER/stderr-$task" &
    echo $! > "$FOLDER/pid-$task"
done
wait -n; first=$?
if [ $first -ne 0 ]; then
    for _ in {1..80}; do [ -n "$(jobs -r)" ] || break; sleep 0.1; done
    kill $(cat "$FOLDER"/pid-*) 2>/dev/null
fi
wait -n; second=$?
exit $((first > second ? first : second))
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" > "$FOLDER/scontrol-args"\n'


def test_shell_scripts_pass_shellcheck():
    files = [path for path in [*ROOT.glob("scripts/**/*"), ROOT / ".ci" / "run"] if path.is_file()]
    scripts = [path for path in files if path.read_bytes().startswith(b"#!/usr/bin/env bash")]
    assert {"slurm.sbatch", "tpu_vm.sh", "setup", "test"} <= {path.name for path in scripts}
    checked = subprocess.run([Path(sys.executable).with_name("shellcheck"), *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_manifest_follows_the_published_schema():
    manifest = yaml.safe_load((ROOT / "scripts" / "cloud" / "jobset.yaml").read_text())
    parsed = JobsetV1alpha2JobSet.from_dict(manifest)
    assert parsed is not None and parsed.to_dict() == manifest


def test_the_tpu_script_prints_its_usage():
    used = subprocess.run(["bash", ROOT / "scripts" / "cloud" / "tpu_vm.sh"], capture_output=True, text=True)
    assert used.returncode == 2 and "tpu_vm.sh run    NAME ZONE --config" in used.stderr
    assert "set -euo" not in used.stderr


def test_the_tpu_script_restarts_a_run_only_for_exit_codes_that_a_restart_can_fix():
    """A run that was stopped, by any signal, stays stopped."""
    listed = re.search(r"case \$\? in ([\d|]+)\) break", (ROOT / "scripts" / "cloud" / "tpu_vm.sh").read_text())
    assert listed is not None
    assert {int(code) for code in listed[1].split("|")} == {0, 1, 2} | {128 + number for number in SIGNALS}


def start_on_slurm(tmp_path, *flags: str, **variables: str) -> subprocess.Popen:
    """Runs the sbatch file as Slurm does, with two tasks."""
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "FOLDER": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    command = ["bash", ROOT / "scripts" / "cloud" / "slurm.sbatch", *flags]
    return subprocess.Popen(command, env={**os.environ, **slurm, **variables})


@pytest.mark.parametrize(
    ("codes", "again"),
    [((143, 143), True), ((3, 134), True), ((2, 143), False), ((134, 1), False), ((0, 0), False)],
)
def test_slurm_requeues_a_job_only_for_exit_codes_that_a_restart_can_fix(codes, again, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/usr/bin/env bash\ncodes=({codes[0]} {codes[1]}); exit ${{codes[$SLURM_PROCID]}}\n")
    python.chmod(0o755)
    number = str(random.randrange(10**6))  # Part of a file name.
    job = start_on_slurm(tmp_path, PYTHON=str(python), RETRY_S="1", SLURM_JOB_ID=number)
    assert job.wait() == max(codes)
    assert (tmp_path / "scontrol-args").exists() == again
    assert not list(ROOT.glob(f"*{number}.codes"))


@pytest.mark.slow
def test_a_slurm_job_saves_on_sigterm_and_is_requeued(tmp_path):
    """Only one of the tasks receives the signal; all stop at the same step."""
    length = ("--config.train.steps=100000", "--config.checkpoint.every=20", "--config.log.preview_every=0")
    number = str(random.randrange(10**6))  # JAX derives the port from it.
    job = start_on_slurm(tmp_path, RECIPE, f"--workdir={tmp_path}/run", *length, SLURM_JOB_ID=number)
    wait_for_checkpoint(job, tmp_path / "run", 20)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGTERM)
    logs = [tmp_path / f"stderr-{task}" for task in (0, 1)]
    assert job.wait(timeout=60) == 143, [path.read_text() for path in logs]
    assert (tmp_path / "scontrol-args").read_text() == f"requeue {number}\n"
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"step {saved} is saved," in logs[0].read_text()
    assert int(final_state(tmp_path / "run").step) == saved


def test_the_dockerfile_passes_hadolint_and_copies_only_files_of_its_context():
    checked = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    context = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert any(fnmatch(source, name) for name in context) and list(ROOT.glob(source)), line
