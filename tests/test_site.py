"""The site is built without a warning, its links lead somewhere, and looking at it asks no other host for anything."""

import base64
import importlib.util
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from tests.end_to_end.commands import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "latex2mathml", "nbconvert")),
        reason="the site needs requirements-docs.txt",
    ),
]
SOURCES = re.findall(r"^repo_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0] + "/blob/main/"
PNG = base64.b64encode(b"\x89PNG").decode()


class Page(HTMLParser):
    """What a page of the site links to and loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id") or "")
        if tag == "a":
            self.links.add(values.get("href") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.add(values.get("href") or "")
        elif values.get("src"):
            self.loaded.add(values["src"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """The pages of the site by their paths."""
    folder = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return {path: Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}


def named(site: dict[Path, Page], name: str) -> Page:
    """The page of a name such as "api/run"."""
    (found,) = (page for path, page in site.items() if path.match(f"{name}/index.html"))
    return found


def test_every_page_and_notebook_is_on_the_site(site):
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert len(site) == len(sources) > 25


def test_links_lead_to_pages_and_anchors(site):
    for path, page in site.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path} links to {link}"
            assert target not in site or unquote(parts.fragment) in site[target].anchors | {""}, (
                f"{path} links to {link}"
            )


def test_links_to_sources_name_files(site):
    links = {link for page in site.values() for link in page.links if link.startswith(SOURCES)}
    assert len(links) > 20
    for link in links:
        assert (ROOT / link.removeprefix(SOURCES).partition("#")[0]).is_file(), link


def test_names_of_functions_lead_to_their_entries(site):
    assert "../api/diffusion/#ddpm_jax.diffusion.process.q_sample" in named(site, "mathematics").links


def test_docstrings_and_signatures_are_as_in_the_source(site):
    run, sampling = (unescape(re.sub("<[^>]*>", "", named(site, name).text)) for name in ("api/run", "api/sampling"))
    assert ') -> Float[ndarray, "count height width channels"]' in run
    assert 'indices: Int[ndarray | Array, "batch"]' in sampling
    assert "\nscan_loop     all steps in one" in sampling  # Columns.
    assert "<code>originals</code>: [N, height" in named(site, "api/run").text


def test_nothing_is_loaded_from_elsewhere(site):
    for path, page in site.items():
        assert not [name for name in page.loaded if urlsplit(name).netloc], path
        assert 'data-md-component="source"' not in page.text, "Material asks GitHub for the stars of a repository."
    folder = min(site, key=lambda path: len(path.parts)).parent
    styles = "".join(path.read_text() for path in folder.rglob("*.css"))
    assert styles and not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", styles)


def test_equations_are_mathml(site):
    equations = [found for page in site.values() for found in re.findall("<math.*?</math>", page.text, re.DOTALL)]
    assert len(equations) > 100
    assert not [equation for equation in equations if "\\" in equation or 'mathvariant="script"' in equation]
    assert not any('"arithmatex">\\' in page.text for page in site.values())


def test_a_notebook_is_shown_with_the_pictures_that_it_holds(tmp_path):
    from scripts.site.hooks import notebook_files

    picture = nbformat.v4.new_output("display_data", {"image/png": PNG})
    cells = [nbformat.v4.new_markdown_cell("# Title\n\nText."), nbformat.v4.new_code_cell("1 + 1", outputs=[picture])]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.write(notebook, tmp_path / "example.ipynb")
    (name, page), (picture_name, content) = notebook_files(tmp_path / "example.ipynb")
    assert name == "example.md" and page.startswith("# Title\n") and "```python\n1 + 1" in page
    assert f"({picture_name})" in page and content == b"\x89PNG"
