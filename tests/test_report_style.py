"""Lines, legends and notes of figures: each method keeps a look of its own."""

import colorsys
from types import SimpleNamespace

import pandas as pd
import pytest
from fake_report import fake_scores, fake_summary
from matplotlib.colors import to_rgb

from lowrank_bench.report import frames, page, style, versus_svd


def test_svd_is_black_and_dashed_and_families_range_from_dark_to_light():
    scores = frames.tidy(fake_scores(seeds=(0,), epochs=(0, 2)))
    styles = style.line_styles(scores)
    assert list(styles)[:2] == ["svd, 0 epochs", "svd, 2 epochs"]
    for name, line in styles.items():
        assert (line.color == (0, 0, 0)) == name.startswith("svd")
        assert line.filled == name.endswith("0 epochs")
    assert styles["svd, 0 epochs"].dashes != styles["lp (p=1), 0 epochs"].dashes == "-"
    light = [sum(styles[f"lp (p={p}), 0 epochs"].color) for p in ("1", "1.5", "10")]
    assert light == sorted(light)
    assert len(set(light)) == 3
    order = [name for name in styles if name.startswith("lp")]
    assert [name.split(",")[0] for name in order[::2]] == ["lp (p=1)", "lp (p=1.5)", "lp (p=10)"]
    assert len({(line.color, line.dashes) for line in styles.values()}) == len(styles)


def test_two_parameters_of_a_method_are_distinguished_by_hue_and_marker():
    grid = [{"a": a, "b": b} for a in (1.0, 2.0, 3.0) for b in (5.0, 6.0)]
    methods = {"svd": [{}], "many": grid, "other": [{}]}
    styles = style.line_styles(frames.tidy(fake_scores(methods=methods)))
    assert list(styles)[1:-1] == [f"many (a={p['a']:g}, b={p['b']:g})" for p in grid]
    marker = {name: line.marker for name, line in styles.items()}
    assert all(marker[f"many (a={a}, b=5)"] == marker["many (a=1, b=5)"] for a in (2, 3))
    assert marker["many (a=1, b=5)"] != marker["many (a=1, b=6)"]
    hues = {name: colorsys.rgb_to_hsv(*line.color)[0] for name, line in styles.items()}
    for a in (1, 2, 3):
        assert hues[f"many (a={a}, b=5)"] == pytest.approx(hues[f"many (a={a}, b=6)"], abs=0.02)
    assert len({round(hues[name], 1) for name in styles if name.endswith("b=5)")}) == 3


def test_a_family_and_reused_hues_are_distinguishable():
    pairs = [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}]
    methods = {"svd": [{}], "a": pairs} | {f"m{i:02}": [{}] for i in range(12)}
    styles = style.line_styles(frames.tidy(fake_scores(models=("m",), methods=methods)))
    family = {styles[f"a (a=1, b={b})"].marker for b in (1, 2)}
    again = [line.marker for line in styles.values() if line.color == to_rgb(style.HUES[0])]
    assert len(family) == 2
    assert len(again) == 1
    assert not family & set(again)


def test_twenty_methods_of_two_kinds_of_networks_are_distinguishable_in_their_panels():
    one = fake_scores(models=("text",), methods={f"m{i:02}": [{}] for i in range(12)})
    two = fake_scores(models=("image",), methods={f"n{i:02}": [{}] for i in range(9)})
    both = {"svd": [{}]}
    scores = pd.concat(
        [
            one,
            fake_scores(models=("text",), methods=both),
            two.assign(target="conv"),
            fake_scores(models=("image",), methods=both).assign(target="conv"),
        ]
    )
    styles = style.line_styles(frames.tidy(scores))
    assert next(iter(styles)) == "svd"
    assert styles["svd"].color == (0, 0, 0)
    for letter in "mn":
        looks = {(styles[n].color, styles[n].marker) for n in styles if n[0] in (letter, "s")}
        assert len(looks) == 1 + {"m": 12, "n": 9}[letter]
    assert styles["m00"].color == styles["n00"].color


@pytest.mark.parametrize(("long", "least"), [(0, 5), (1, 2), (13, 1)])
def test_the_legend_lies_between_panels_and_margin_in_as_many_columns_as_fit(long, least):
    names = [f"layerwise (approximator=two_sided, allocation=sum) {n}" for n in range(long)]
    names += [f"method_{n}" for n in range(13 - long)]
    line = style.line_styles(frames.tidy(fake_summary(fake_scores())))["svd"]
    with style.page_style():
        drawn = page.new_page(2.0, page.Heading("t"), dict.fromkeys(names, line))
        axes = drawn.subplots()
        drawn.draw_without_rendering()
        legend = drawn.legends[0].get_window_extent()
    margin = page.MARGIN * drawn.dpi
    assert margin <= legend.x0 < legend.x1 <= drawn.bbox.width - margin
    assert legend.y0 >= 0
    assert 0 <= axes.get_tightbbox().y0 - legend.y1 <= 0.25 * drawn.dpi
    starts = {text.get_window_extent().x0 for text in drawn.legends[0].get_texts()}
    assert len(starts) >= least


@pytest.mark.parametrize(
    ("gain", "narrow", "shown"),
    [
        (11.46, True, "+11"),
        (-11.46, True, "−11"),
        (11.46, False, "+11.5"),
        (9.94, True, "+9.9"),
        (9.96, True, "+10"),
        (-0.04, True, "+0.0"),
    ],
)
def test_gains_are_rounded_once_to_fit_their_cell(gain, narrow, shown):
    cell = SimpleNamespace(gain=gain, tasks=1, of=1, p=1.0, won=0, lost=0)
    assert versus_svd._words(cell, narrow) == shown
