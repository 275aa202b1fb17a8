"""Hooks of MkDocs (mkdocs.yml): the pages of docs/ and notebooks/, written for GitHub, as pages of a site.

- Notebooks become pages, with the outputs that they hold; nothing is executed.
- Links to files outside docs/ lead to the repository, and names of functions to their entries in the reference.
- Equations become MathML, which browsers draw without scripts or fonts.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
PLACEHOLDER = "THIS-REPOSITORY"
"""Stands for the repository's URL in pages and notebooks."""
ALPHABETS = {"script": "SCRIPT", "double-struck": "DOUBLE-STRUCK"}
"""Names in Unicode of the variants of letters that Chromium ignores as attributes."""
CORRECTIONS = {
    # Chromium would stretch only one of two bars.
    r"<mo>(&#x0(?:2016|2225);)</mo>": r'<mo stretchy="false">\1</mo>',
    # A relation and functions, which latex2mathml writes as variables, without space around them.
    r"<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    r"<m[io]>(exp|ln|log|max|min|sin)</m[io]>": r'<mo lspace="0.1em" rspace="0.1em">\1</mo>',
}
"""What is replaced in the MathML of latex2mathml."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebooks."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for name, content in notebook_files(path):
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def notebook_files(path: Path) -> Iterable[tuple[str, str | bytes]]:
    """The names and contents of a notebook's page and pictures."""
    text, resources = MarkdownExporter().from_filename(
        str(path), resources={"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    )
    title, _, rest = text.lstrip().partition("\n")
    yield f"{path.stem}.md", f"{title}\n\nThis page is a notebook: [{path.name}](../notebooks/{path.name}).\n{rest}"
    yield from resources["outputs"].items()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links of the repository into links of the site."""
    repository = (config.repo_url or "").rstrip("/")
    folder = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        text, path, anchor = found["text"], found["path"], found["anchor"] or ""
        # Notebooks lie beside docs/, whose pages are at the root of the site.
        base = "notebooks" if folder == "notebooks" else posixpath.join("docs", folder)
        target = posixpath.normpath(posixpath.join(base, path))
        if target.endswith(".ipynb") and folder != "notebooks":
            target = f"docs/{target.removesuffix('ipynb')}md"
        if target.startswith("docs/"):
            return f"[{text}]({posixpath.relpath(target.removeprefix('docs/'), folder or '.')}{anchor})"
        name = re.fullmatch(r"`([\w.]+)`", text)
        if name and target.startswith("ddpm_jax/"):
            module = target.removesuffix(".py").replace("/", ".")
            return f"[{text}][{module}.{name[1]}]"
        return f"[{text}]({repository}/blob/main/{target}{anchor})"

    markdown = re.sub(f"(https://)?{PLACEHOLDER}", repository, markdown)
    return re.sub(r"\[(?P<text>[^\]]*)\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)", link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Turns TeX, which Arithmatex has marked as \(…\) and \[…\], into MathML."""
    return re.sub(
        r'(class="arithmatex">)\\([(\[])(.*?)\\[)\]](</)',
        lambda found: found[1] + mathml(unescape(found[3]), "inline" if found[2] == "(" else "block") + found[4],
        html,
        flags=re.DOTALL,
    )


def mathml(tex: str, display: str) -> str:
    """The MathML of an equation; display: "inline" or "block"."""

    def letter(found: re.Match[str]) -> str:
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {ALPHABETS[found[1]]} CAPITAL {found[2]}')}</mi>"

    text = re.sub(rf'<mi mathvariant="({"|".join(ALPHABETS)})">([A-Z])</mi>', letter, convert(tex, display=display))
    for found, corrected in CORRECTIONS.items():
        text = re.sub(found, corrected, text)
    return text
