import pytest
from matplotlib.figure import Figure

from ddpm_jax.reporting.charts import STYLES, line_chart, panels


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved to files."""
    figures, save = [], Figure.savefig

    def saved(self, *args, **options):
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def test_each_curve_is_sorted_by_x_and_has_a_legend_entry(tmp_path, drawn):
    line_chart(tmp_path / "a.png", {"one": [(3, 0.3), (1, 0.1), (2, 0.2)], "two": [(1, 9.0)]}, "steps", "FID")
    (axes,) = drawn[0].axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 0.1], [2, 0.2], [3, 0.3]], [[1, 9.0]]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "FID")
    assert (tmp_path / "a.png").stat().st_size


def test_every_curve_has_its_own_style(tmp_path, drawn):
    curves = {str(number): [(1, float(number))] for number in range(len(STYLES))}
    line_chart(tmp_path / "a.png", curves, "", "")
    looks = [(line.get_linestyle(), line.get_marker()) for line in drawn[0].axes[0].lines]
    assert len(set(looks)) == len(curves)


def test_tick_labels_of_a_logarithmic_axis_do_not_overlap(tmp_path, drawn):
    line_chart(tmp_path / "a.png", {"": [(10, 1.0), (1000, 2.0), (1001, 3.0)]}, "", "", log_x=True)
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "1,000"]


def test_panels_have_their_titles_in_order(tmp_path, drawn):
    panels(tmp_path / "a.png", {"FID": {"a": [(1, 2.0)]}, "KID": {"a": [(1, 3.0)]}}, "step", "")
    assert [axes.get_title() for axes in drawn[0].axes] == ["FID", "KID"]
