"""Each command that a message suggests can be pasted into a shell, whatever the names of the folders."""

import ast
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ddpm_jax.commands import cli, reports
from ddpm_jax.config import Config, to_json
from ddpm_jax.data.sources import tfds
from ddpm_jax.errors import UserError, script, shell_command
from ddpm_jax.interop.tensors import refuse_pickle
from ddpm_jax.reporting.writer import BestSoFar
from ddpm_jax.runtime.locks import exclusive_lock
from ddpm_jax.workdir import no_checkpoint, read_config, refuse_another_run
from tests.interop.toy import random_run

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"\b(?:python|ddpm-jax|tensorboard|cp|mv|rm)\b [^|]*$")
"""The beginning of a command, up to a value that is formatted into it."""


def remedy(call) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def words(message: str, start: str) -> list[str]:
    """The words into which a shell splits the command at the end of a message."""
    return shlex.split(message[message.index(start) :], comments=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder whose name a shell would take apart."""
    (tmp_path / "a b #c's").mkdir()
    return tmp_path / "a b #c's"


def test_a_run_ends_with_commands_for_its_workdir(folder, package_log):
    reports.summarise(Config(), folder / "run", BestSoFar(), [3])
    watch, following = package_log.messages[-2:]
    assert words(watch, "tensorboard") == ["tensorboard", "--logdir", str(folder)]
    assert words(following, "python") == ["python", "main.py", "--mode=sample", f"--workdir={folder}/run"]


def test_an_imported_run_names_the_next_command(folder, package_log):
    random_run(folder / "run")
    assert words(package_log.messages[-1], "python")[-1] == f"--workdir={folder}/run"


def test_errors_about_a_workdir_name_the_remedy(folder):
    train = ["python", "main.py", "--config=FILE", f"--workdir={folder}"]
    assert words(str(no_checkpoint(folder)), "python") == train
    assert words(remedy(lambda: read_config(folder)), "python") == train
    copy = folder / "checkpoints" / "3" / "config" / "metadata"
    copy.parent.mkdir(parents=True)
    copy.write_text(to_json(Config()))
    assert words(remedy(lambda: refuse_another_run(folder, Config())), "cp ") == [
        *("cp", str(copy), str(folder / "config.json"))
    ]
    pretrained = "pretrained:digits"
    message = remedy(lambda: cli.main_without_exit(["main.py", "--mode=sample", f"--workdir={pretrained}"]))
    assert words(message, "python")[-2:] == [pretrained, "runs/imported"]


def test_errors_about_files_name_the_remedy(folder, monkeypatch):
    pickled = folder / "model.pth"
    python, flag, program = words(remedy(lambda: refuse_pickle(pickled)), "python")
    assert (python, flag) == ("python", "-c")
    assert {str(pickled), str(folder / "model.safetensors")} <= {
        node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)
    }
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None)
    message = remedy(lambda: tfds._prepare(folder, "mnist"))
    assert words(message.partition(" there)")[0], "python")[-2:] == ["--data_dir", str(folder)]
    lock = folder / "x.lock"
    with exclusive_lock(lock, "Busy."):
        message = remedy(lambda: exclusive_lock(lock, "Busy.").__enter__())
    assert str(lock) in words(message, "rm ")


def test_flags_alone_are_those_of_this_program():
    assert shell_command("--mode=plan") == "python main.py --mode=plan"
    assert shell_command("cp", Path("a b"), "c") == "cp 'a b' c"


def test_a_path_that_begins_with_a_dash_is_no_flag():
    assert shell_command("rm", Path("-x.lock"), Path("runs/-x")) == "rm ./-x.lock runs/-x"
    assert shell_command("python", "-c", "1") == "python -c 1"


def test_commands_can_be_pasted_in_any_current_folder(tmp_path, monkeypatch):
    for folder in (ROOT, ROOT.parent, tmp_path):
        monkeypatch.chdir(folder)
        for name in ("main.py", "scripts/export_safetensors.py"):
            assert script(name).resolve() == ROOT / name
            assert script(name).is_absolute() == (folder == tmp_path)
        assert words(shell_command("--mode=plan"), "python")[1] == str(script("main.py"))


def test_a_run_is_exported_beside_the_new_one(tmp_path):
    (tmp_path / "-x" / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "-x" / "config.json").write_text(to_json(Config()))
    changed = replace(Config(), optimizer=replace(Config().optimizer, learning_rate=1e-5))
    message = remedy(lambda: refuse_another_run(tmp_path / "-x", changed))
    export, import_, _ = message[message.index("python") :].split(" && ")
    assert shlex.split(export)[1:] == [
        *(str(script("scripts/export_safetensors.py")), f"{tmp_path}/-x", f"{tmp_path}/-x.safetensors")
    ]
    assert shlex.split(import_)[2:4] == [str(tmp_path / "-x.safetensors"), str(tmp_path / "-x-2")]


def test_no_value_is_formatted_into_a_command_without_quotes():
    paths = [path for top in ("ddpm_jax", "scripts") for path in (ROOT / top).rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    assert len(paths) > 100
    for node in nodes:
        before = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else ():
            value = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""
            assert not value or "shell_command" in value or not COMMAND.search(before), ast.unparse(node)
            before += "|" if value else part.value
