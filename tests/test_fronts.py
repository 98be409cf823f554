"""Rank and bits together: measured errors, and a division that no other choice of forms beats."""

import pytest
import torch
from test_layerwise import bert_problem

from lowrank_bench.layerwise.candidates import layer_matrix
from lowrank_bench.layerwise.forms import decoded
from lowrank_bench.layerwise.fronts import _codes, _fronts, compress_jointly

FACTS = {"frequency": torch.arange(40, 0, -1).double()}


@pytest.mark.parametrize("metric", ["svd", "relative", "whitened", "two_sided"])
def test_each_form_has_its_bytes_and_the_error_of_what_is_decoded(metric):
    problem = bert_problem(budget="bytes", row_facts=FACTS)
    for front in _fronts(problem, metric, coded=True):
        layer, root = front.candidate.layer, front.candidate.spectrum.root
        matrix = layer_matrix(problem, layer)
        left = torch.eye(len(matrix)).double() if root is None else root @ root.T
        right = front.metric.right
        right = torch.ones(matrix.shape[1]).double() if right is None else right
        right = torch.diag(right) if right.ndim == 1 else right
        whole = float(torch.trace(left @ matrix @ right @ matrix.T))
        for form, error in list(zip(front.forms, front.errors, strict=True))[:-1:5]:
            codes = _codes(problem, front.candidate, form)
            assert sum(code.n_bytes for code in codes) <= form.n_bytes
            approximation = decoded(codes).double()
            lost = matrix - (approximation.T if layer.kind == "embedding" else approximation)
            direct = float(torch.trace(left @ lost @ right @ lost.T))
            scale = front.metric.scale
            assert error == pytest.approx(scale * direct, rel=1e-2, abs=1e-6 * scale * whole)


def test_two_forms_together_are_not_worse_than_one_of_them():
    problem = bert_problem(budget="bytes", row_facts=FACTS, rest="fp16")
    both = compress_jointly(problem, 0.3, "relative", coded=True).info
    one = compress_jointly(problem, 0.3, "relative", coded=False).info
    assert both["lp_bound"] <= both["objective"] + 1e-12
    assert both["lower_bound"] == pytest.approx(both["objective"], rel=1e-9)
    assert both["objective"] <= one["objective"] + 1e-12
    assert both["spent"] <= both["budget"]
