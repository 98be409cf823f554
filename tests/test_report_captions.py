"""Every figure and table has a caption, and each caption renders."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowrank_bench.report.names import OPTIONAL_TABLES, TABLE_NAMES

CAPTIONS = Path(__file__).parents[1] / "workflow/report"


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("caption", sorted(CAPTIONS.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_render_as_snakemake_does(caption, filled):
    from docutils.core import publish_parts
    from jinja2 import Environment

    wildcards = SimpleNamespace(model="bert_x") if filled else SimpleNamespace()
    methods = ["``svd``: Truncated SVD. A source.", "``lp``: Robust. Another."] if filled else []
    words = {"title": "GLUE-X", "description": "What it does.", "methods": methods}
    config = {"report": words}
    job = SimpleNamespace(config=config, wildcards=wildcards, params=SimpleNamespace())
    env = Environment(trim_blocks=True, lstrip_blocks=True)
    text = env.from_string(caption.read_text()).render(snakemake=job)
    strict = {"halt_level": 2, "report_level": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # docutils 2 renames an argument of the writer
        body = publish_parts(text, writer_name="html", settings_overrides=strict)["html_body"]
    assert "{{" not in body
    if caption.stem in ("workflow", "drop"):
        name = {"workflow": "Truncated SVD", "drop": "(bert_x)"}[caption.stem]
        assert (name in body) == filled


def test_the_style_of_the_page_finds_what_it_moves():
    """Snakemake centres what it shows, so that the top of a long page cannot be reached."""
    import snakemake.report.html_reporter as reporter

    parts = Path(reporter.__file__).parent / "template/components"
    content = (parts / "content.js").read_text()
    assert 'className: "grow flex items-center justify-center h-screen overflow-auto"' in content
    assert 'class: "flex flex-row w-screen h-screen"' in (parts / "app.js").read_text()
    style = (CAPTIONS / "page.css").read_text()
    assert "#app > div > .grow {\n  align-items: flex-start;" in style
    script = (CAPTIONS.parent / "scripts/report.py").read_text()
    assert "--report-stylesheet" in script


def test_every_figure_and_table_has_a_caption():
    captions = {path.stem for path in CAPTIONS.glob("*.rst")}
    stems = {"drop", "average", "versus_svd", "error_vs_drop", "workflow"}
    tables = {*TABLE_NAMES, *OPTIONAL_TABLES.values()}
    assert captions >= stems | {f"table_{name}" for name in tables}
