"""Records what runs measured, and writes docs/results.md: which recipes are reproduced, in part, or not.

    python scripts/results.py add runs/digits --name=digits
    python scripts/results.py add runs/small --name=cifar10-small --samples=9000-ddim-50steps-leading-seed0-n100
    python scripts/results.py render

`add` copies from a workdir what is known of its training, its losses, the metrics of the newest checkpoint that
--mode=evaluate measured, and the pictures of a folder of samples, to docs/results/<name>.json and
docs/pictures/results/, and renders the page. `render` writes the page again, as after a change of a recipe. An entry of
the same name is replaced.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Adds a run if one is given, and writes the page."""
    flags = checked_flags()
    from ddpm_jax.errors import UserError
    from ddpm_jax.runtime.files import staged
    from ddpm_jax.runtime.urls import as_path
    from scripts.reproduction.page import page
    from scripts.reproduction.record import add

    if not flags.docs.is_dir():
        raise UserError(f"--docs={flags.docs} is not a folder; give the docs/ of a checkout.")
    if flags.command == "add":
        add(
            as_path(flags.run, "RUN"),
            flags.name,
            flags.docs,
            recipe=flags.recipe,
            samples=flags.samples,
            note=flags.note,
        )
    text = page(flags.docs)
    with staged(flags.docs / "results.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"Wrote {flags.docs / 'results.md'}")


def checked_flags() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="FOLDER", help="(docs/ of this checkout)")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="record a run, and write the page", allow_abbrev=False)
    adding.add_argument("run", metavar="RUN", help="a workdir, or its URL")
    adding.add_argument("--name", required=True, help="of the entry: lower-case letters, digits and hyphens")
    adding.add_argument("--recipe", metavar="FILE[:VARIANT]", help="the recipe of a run that has not recorded it")
    adding.add_argument("--samples", metavar="FOLDER", help="the folder in RUN/samples/ to show, if there are several")
    adding.add_argument(
        "--note", metavar="TEXT", help="a remark to show with it, such as the credit for its images (that of before)"
    )
    commands.add_parser("render", help="write the page", allow_abbrev=False)
    return parser.parse_args()


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
