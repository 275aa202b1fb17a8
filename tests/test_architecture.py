"""The layout is the architecture: what may import what, and what the core must not drag in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ddpm_jax"
# A module imports only from its own package (or top-level module) and from those listed before it.
ORDER = [
    "errors",
    "shapes",
    "runtime",
    "config",
    "diffusion",
    "network",
    "sampling",
    "reporting",
    "data",
    "training",
    "builders",
    "workdir",
    "interop",
    "generation",
    "evaluation",
    "commands",
    "run",
    "__init__",
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of everything that a module imports, functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    allowed = ORDER[: ORDER.index(package_of(path)) + 1]
    for name in imports(path):
        if name.startswith("ddpm_jax."):
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}, which is listed after it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_dependency_has_its_package_of(path):
    homes = {
        "flax.linen": {"network", "evaluation"},
        "orbax": {"training"},
        "tensorboardX": {"reporting"},
        "ml_collections": {"config"},
        "absl": {"config", "commands"},
        "fsspec": {"runtime"},
        "filelock": {"runtime"},
        "PIL": {"data", "reporting"},
        "matplotlib": {"reporting"},
        "etils": {"runtime", "data"},
        "google.protobuf": {"data"},
        "grain": {"data"},
        "pyarrow": {"data"},
    }
    for name in imports(path):
        assert not name.startswith("flax.training")
        # Where weights come as PyTorch's pickles, they are converted by it, once.
        assert not name.startswith("torch") or path.name == "weights.py"
        # The program that prepares a set, in a process of its own.
        assert not name.startswith("tensorflow") or path.name == "prepare_tfds.py"
        for library, packages in homes.items():
            if name.startswith(library):
                assert package_of(path) in packages, f"{path.name} imports {name}"
    if package_of(path) == "diffusion":
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"jax", "numpy", "jaxtyping", "ddpm_jax"}


def arrows() -> set[tuple[str, str]]:
    """Which package imports which."""
    pairs = {
        (package_of(path), name.split(".")[1])
        for path in MODULES
        for name in imports(path)
        if name.startswith("ddpm_jax.")
    }
    return {(importer, imported) for importer, imported in pairs if importer != imported}


def test_packages_know_few_others():
    assert 50 < len(arrows()) <= 120


def test_one_module_compiles():
    """So that every compiled function has the settings of our own."""
    assert [p.name for p in MODULES if "jax.jit" in p.read_text() or "jax.jit" in imports(p)] == ["compilation.py"]


def test_one_module_knows_orbax():
    assert [p.name for p in MODULES if any(n.startswith("orbax") for n in imports(p))] == ["sealed_trees.py"]


def test_processes_that_decode_images_start_without_jax():
    program = "import sys, ddpm_jax.data.prepare; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)


def test_the_package_imports_where_optional_packages_are_blocked():
    blocked = ["tensorflow", "tensorflow_datasets", "grain", "pyarrow", "torch", "wandb"]
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import ddpm_jax.commands.cli"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)


def test_docstrings_are_sentences_or_noun_phrases():
    fragments = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value.value}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if str(node.value.value).lstrip().startswith(("What ", "Of "))
    ]
    assert not fragments


def test_every_module_has_a_docstring():
    for path in MODULES:
        if path.stat().st_size:
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
