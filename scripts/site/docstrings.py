"""An extension of Griffe (mkdocs.yml): docstrings, which are plain text, as Markdown; signatures as in the source."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Keeps columns in docstrings and the axes of arrays in signatures, and marks the names of parameters."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(keep_columns, obj.docstring.value.split("\n\n")))

    def on_function(self, *, func: griffe.Function, **others: Any) -> None:
        names = [parameter.name for parameter in func.parameters]
        for annotation in (func.returns, *(parameter.annotation for parameter in func.parameters)):
            quote_axes(annotation)
        if func.docstring and names:
            func.docstring.value = mark_names(func.docstring.value, names)

    def on_attribute(self, *, attr: griffe.Attribute, **others: Any) -> None:
        quote_axes(attr.annotation)


def keep_columns(paragraph: str) -> str:
    """The paragraph, indented as code if it is set in columns."""
    in_columns = re.search(r"^\S.*\S {3,}\S", paragraph, re.MULTILINE)
    return re.sub("^", "    ", paragraph, flags=re.MULTILINE) if in_columns else paragraph


def mark_names(text: str, names: list[str]) -> str:
    """The text with names of parameters as code where they are explained: "x0: in [-1, 1]; t, s: in 1..T"."""
    name = "|".join(map(re.escape, names))

    def mark(found: re.Match[str]) -> str:
        before, explained = found.groups()
        # A parameter that begins a line does so on the page.
        return before.replace("\n", "  \n") + re.sub(rf"\b(?:{name})\b", r"`\g<0>`", explained)

    return re.sub(rf"(^|\n|[.;] )((?:{name})(?:(?:, | and )(?:{name}))*)(?=: )", mark, text)


def quote_axes(annotation: str | griffe.Expr | None) -> None:
    """Makes text of the axes of jaxtyping's arrays, which Griffe takes for names and numbers."""
    if not isinstance(annotation, griffe.Expr) or isinstance(annotation, griffe.ExprName):  # A name holds itself.
        return
    if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_path.startswith("jaxtyping."):
        array, axes = annotation.slice.elements
        annotation.slice.elements = [array, '"{}"'.format(str(axes).strip("'"))]
    for part in annotation:
        quote_axes(part)
