"""low_rank and compress: their results, their errors, and that the input stays unchanged."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import lowrank_bench
from lowrank_bench.compression.embedding import compress_embedding
from lowrank_bench.compression.front import compress
from lowrank_bench.compression.matrix import low_rank
from lowrank_bench.compression.networks import compress_network
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import FactorizedEmbedding
from lowrank_bench.methods.lp import Lp

TINY = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


class Classifier(nn.Module):
    """Embedding, mean, linear: a network from outside transformers."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 8, padding_idx=0, dtype=dtype)
        self.head = nn.Linear(8, 2, dtype=dtype)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(indices).mean(dim=1))


def bert(kind: type = BertForSequenceClassification) -> nn.Module:
    torch.manual_seed(0)
    return kind(BertConfig(**TINY)).eval()


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    method=st.sampled_from([("svd", {}), ("lp", {}), ("lp", {"p": 3.0})]),
)
def test_low_rank_at_full_rank_returns_the_matrix(rows, columns, dtype, method):
    a = torch.randn(rows, columns).to(dtype)
    small = min(rows, columns)
    factors = low_rank(a, small, method[0], **method[1])
    assert factors.left.shape == (rows, small)
    assert factors.right.shape == (small, columns)
    assert factors.left.dtype == factors.right.dtype == dtype
    tolerance = 40 * torch.finfo(dtype).eps * a.abs().max().item()
    torch.testing.assert_close(factors.dense(), a, rtol=0, atol=tolerance)


def test_low_rank_accepts_arrays():
    a = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    expected = low_rank(torch.from_numpy(a.copy()), 3).dense()
    frozen = a.copy()
    frozen.flags.writeable = False
    for array in (a, frozen, a[::-1], np.asfortranarray(a), a.astype(">f4")):
        product = low_rank(array, np.int64(3)).dense()
        assert product.dtype == torch.float32
        product = product.flip(0) if array.strides[0] < 0 else product
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-5)


def test_low_rank_detaches_and_leaves_its_input_unchanged():
    a = torch.randn(9, 5, requires_grad=True)
    before = a.detach().clone()
    factors = low_rank(a, 2)
    assert not factors.left.requires_grad
    assert torch.equal(a.detach(), before)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), "rows and columns, not an array of 3"),
        (torch.zeros(2, 3, 4), "not an array of 2x3x4"),
        (torch.ones(3, 3, dtype=torch.int64), "entries of type int64; convert it to float32"),
        (np.ones((3, 3), dtype=bool), "entries of type bool"),
        (np.ones((3, 3), dtype=complex), "entries of type complex128"),
        ([[1.0, 2.0]], "a tensor or an array, not list"),
        (torch.eye(3).to_sparse(), "sparse; convert it with"),
        (torch.tensor([[1.0, 2.0], [3.0, float("inf")]]), "1 matrix entry is .* in row 1"),
        (torch.full((3, 4), float("nan")), "12 matrix entries are NaN or infinite.* in row 0"),
    ],
)
def test_low_rank_refuses_bad_matrices(value, message):
    with pytest.raises(LowRankError, match=message) as caught:
        low_rank(value, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", [0, -1, 4, 2.0, "2", None, True])
def test_low_rank_refuses_bad_ranks(rank):
    with pytest.raises(LowRankError, match=r"does not fit a 5x3 matrix; use one in 1\.\.3"):
        low_rank(torch.ones(5, 3), rank)


def test_low_rank_refuses_an_empty_matrix():
    with pytest.raises(LowRankError, match="does not fit a 0x3 matrix; it has no entries"):
        low_rank(torch.ones(0, 3), 1)


def test_compress_bert():
    model = bert()
    before = copy.deepcopy(model.state_dict())
    small, report = compress(model, "lp", 0.4, p=1.5)
    rank = 7  # the largest k with 76 k <= 0.6 * 960
    assert isinstance(small, BertForSequenceClassification)
    assert isinstance(small.get_input_embeddings(), FactorizedEmbedding)
    assert report.layers == [
        {"name": "bert.embeddings.word_embeddings", "shape": [60, 16], "rank": rank}
    ]
    assert (report.method, report.params, report.target) == (
        "lp",
        {"p": 1.5, "center": False},
        "embedding",
    )
    assert report.parameters_dense == 960
    assert report.parameters_kept == rank * 76
    assert report.compression == 1 - rank * 76 / 960
    assert report.seconds > 0
    saved = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())
    assert saved == report.parameters_dense - report.parameters_kept
    table = before["bert.embeddings.word_embeddings.weight"]
    gap = table - small.get_input_embeddings().weight
    assert report.rel_error_fro == pytest.approx((gap.norm() / table.norm()).item(), rel=1e-4)
    l1 = (gap.abs().sum() / table.abs().sum()).item()
    assert report.rel_error_l1 == pytest.approx(l1, rel=1e-4)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert set(report.to_dict()) == set(CompressionReport.__dataclass_fields__)


def test_compress_leaves_the_input_unchanged_and_copies_the_rest():
    model = bert()
    before = copy.deepcopy(model.state_dict())
    small, _ = compress(model, "svd", 0.5)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    places = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in places for p in small.parameters())
    for name, value in small.state_dict().items():
        if "word_embeddings" not in name:
            assert torch.equal(value, before[name])
    assert small.training == model.training


def test_compressed_network_computes_with_the_product():
    model = bert()
    small, _ = compress(model, "svd", 0.5)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected.get_input_embeddings().weight.copy_(small.get_input_embeddings().weight)
    indices = torch.randint(60, (4, 9))
    with torch.no_grad():
        torch.testing.assert_close(small(indices).logits, expected(indices).logits)
        assert not torch.allclose(small(indices).logits, model(indices).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_compress_plain_modules(dtype):
    model = Classifier(dtype)
    small, report = compress(model, "lp", 0.3)
    assert report.layers[0]["name"] == "words"
    assert small.words.left.dtype == dtype
    assert small.words.padding_idx == 0
    assert isinstance(small(torch.zeros(2, 3, dtype=torch.long)), torch.Tensor)
    assert report.compression >= 0.3


def test_compress_chooses_among_several_embeddings():
    model = nn.ModuleDict({"one": nn.Embedding(30, 8), "two": nn.Embedding(30, 8)})
    with pytest.raises(LowRankError, match="choose one with layer="):
        compress(model, "svd", 0.5)
    small, _ = compress(model, "svd", 0.5, layer="two")
    assert isinstance(small["two"], FactorizedEmbedding)
    assert isinstance(small["one"], nn.Embedding)
    again, _ = compress(small, "svd", 0.5, layer="one")
    assert torch.equal(again["two"].left, small["two"].left)


def test_compress_refuses_shared_tables():
    with pytest.raises(LowRankError, match=r"word_embeddings' shares its table with 'cls\."):
        compress(bert(BertForMaskedLM), "lp", 0.5)


@pytest.mark.parametrize("compression", [0, 1, -0.1, 1.5, float("nan"), "half", None])
def test_compress_refuses_bad_budgets(compression):
    with pytest.raises(LowRankError, match="compression must lie between 0 and 1, not"):
        compress(Classifier(), "svd", compression)


def test_compress_refuses_other_wrong_arguments():
    with pytest.raises(LowRankError, match=r"compression 0\.99 leaves no rank for a 40x8 matrix"):
        compress(Classifier(), "svd", 0.99)
    with pytest.raises(LowRankError, match="unknown target 'head'; known: embedding"):
        compress(Classifier(), "svd", 0.5, target="head")
    with pytest.raises(LowRankError, match="unknown method 'sdv'; did you mean 'svd'"):
        compress(Classifier(), "sdv", 0.5)
    broken = Classifier()
    broken.words.weight.data[7, 3] = float("nan")
    with pytest.raises(LowRankError, match="1 matrix entry is NaN or infinite, the first in row 7"):
        compress(broken, "svd", 0.5)
    with pytest.raises(LowRankError, match="already compressed"):
        compress(compress(Classifier(), "svd", 0.5)[0], "svd", 0.5)


def test_the_package_offers_the_functions():
    assert lowrank_bench.low_rank is low_rank
    assert lowrank_bench.compress is compress
    assert set(lowrank_bench.__all__) <= set(dir(lowrank_bench))
    assert all(getattr(lowrank_bench, name).__name__ == name for name in lowrank_bench.__all__)


def test_importing_the_package_and_its_methods_imports_no_torch():
    code = (
        "import sys, lowrank_bench; from lowrank_bench.methods.lp import Lp; Lp(p=1.5); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_may_be_an_object():
    a = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    named, typed = low_rank(a, 3, "lp", p=1.5), low_rank(a, 3, Lp(p=1.5))
    assert torch.equal(named.dense(), typed.dense())
    model = bert()
    (one, report), (two, _) = compress(model, "lp", 0.4, p=1.5), compress(model, Lp(p=1.5), 0.4)
    assert report.params == {"p": 1.5, "center": False}
    states = one.state_dict(), two.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_an_object_takes_no_parameters_next_to_it():
    for call in (
        lambda: low_rank(torch.eye(4), 2, Lp(), p=1.5),
        lambda: compress(bert(), Lp(), 0.4, p=1.5),
    ):
        with pytest.raises(LowRankError, match=r"write Lp\(p=1\.5\)"):
            call()
    for wrong in (Lp, 3, None):
        with pytest.raises(LowRankError, match="expected the name of a method or a method such as"):
            low_rank(torch.eye(4), 2, wrong)
    with pytest.raises(LowRankError, match=r"method 'lp': p = 0\.5 is not valid"):
        Lp(p=0.5)
    with pytest.raises(LowRankError, match="method 'lp' has no parameter 'q'; known: p, center"):
        Lp(q=1)


def test_compress_forwards_to_a_function_for_each_target():
    model = bert()
    inputs = {"input_ids": torch.ones(1, 5, dtype=torch.long)}
    for target, direct in (
        ("embedding", compress_embedding(model, "svd", 0.5)),
        ("linear", compress_network(model, "svd", 0.5, target="linear", example=inputs)),
    ):
        options = {} if target == "embedding" else {"example": inputs}
        small, report = compress(model, "svd", 0.5, target, **options)
        assert report.target == target
        assert report.to_dict() | {"seconds": 0} == direct[1].to_dict() | {"seconds": 0}
        states = small.state_dict(), direct[0].state_dict()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("embedding", {"example": {}}),
        ("embedding", {"budget": "macs"}),
        ("linear", {"layer": "words"}),
        ("linear", {"fisher": torch.ones(60)}),
        ("conv", {"texts": []}),
    ],
)
def test_an_option_of_another_target_is_refused(target, options):
    name = next(iter(options))
    with pytest.raises(LowRankError, match=f"{name} means nothing for target '{target}'; leave it"):
        compress(bert(), "svd", 0.5, target, **options)


def test_compress_network_refuses_other_targets():
    with pytest.raises(LowRankError, match="'embedding' is not a target of whole networks"):
        compress_network(bert(), "svd", 0.5, target="embedding")


def test_compressed_network_trains():
    torch.manual_seed(0)
    small, _ = compress(Classifier(), "lp", 0.3)
    indices, labels = torch.randint(1, 40, (64, 5)), torch.randint(2, (64,))
    optimizer = torch.optim.Adam(small.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(small(indices), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_embeddings_that_do_more_than_look_up_are_refused():
    class Scaled(nn.Embedding):
        def forward(self, indices):
            return 8 * super().forward(indices)

    with pytest.raises(LowRankError, match="Scaled, which does more than look rows up"):
        compress(nn.Sequential(Scaled(50, 8)), "svd", 0.5)
    hooked = nn.Sequential(nn.Embedding(50, 8))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(LowRankError, match="hooks"):
        compress(hooked, "svd", 0.5)


def test_a_table_in_shared_memory_is_refused():
    model = nn.ModuleDict({"e": nn.Embedding(50, 8), "o": nn.Linear(8, 50, bias=False)})
    model["o"].weight.data = model["e"].weight.data
    with pytest.raises(LowRankError, match=r"shares the memory of its table with 'o\.weight'"):
        compress(model, "svd", 0.5)


@pytest.mark.parametrize("texts", ["one string", [], ["good", None], b"bytes"])
def test_texts_must_be_a_list_of_strings(texts):
    from lowrank_bench.synthetic.networks import build_network

    model, tokenizer = build_network("bert", 0, num_labels=2)
    wanted = {"weights": "counts", "tokenizer": tokenizer, "texts": texts}
    with pytest.raises(LowRankError, match="texts must be a list of strings"):
        compress(model, "frequency_svd", 0.5, **wanted)


def test_factors_that_overflow_are_refused():
    huge = torch.full((40, 8), 60000.0, dtype=torch.float16)
    with pytest.raises(LowRankError, match=r"do not fit into torch\.float16"):
        low_rank(huge, 2, "svd")


def test_the_layer_may_be_the_fifth_argument():
    by_place, _ = compress(bert(), "svd", 0.5, "embedding", "bert.embeddings.word_embeddings")
    by_name, _ = compress(bert(), "svd", 0.5, layer="bert.embeddings.word_embeddings")
    one, two = by_place.state_dict(), by_name.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_parameter_next_to_a_method_object_is_refused_by_what_it_is():
    method = Lp(p=1.5)
    with pytest.raises(LowRankError, match=r"write Lp\(p=2\)"):
        compress(bert(), method, 0.5, p=2)
    with pytest.raises(LowRankError, match=r"'layr' is neither an option nor a parameter of Lp"):
        compress(bert(), method, 0.5, layr="words")
    with pytest.raises(LowRankError, match="not an embedding alone; choose the target conv or lin"):
        compress(bert(), "alds", 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["svd", "lp"])
def test_a_certificate_can_be_left_out_and_changes_no_factor(method, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(3 * 8192 + 5, 12, dtype=dtype))
    net[0].weight.data *= torch.arange(1, 13)
    small, report = compress(net, method, 0.4)
    other, bare = compress(net, method, 0.4, certificate=False)
    assert report.within_l21 >= report.within_fro >= 1
    assert bare.rel_error_fro is bare.within_fro is bare.within_l1 is None
    for one, two in zip(small.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    # The left factor is computed in blocks of rows: the same bits as all at once.
    exact = low_rank(net[0].weight.double(), report.layers[0]["rank"], method)
    assert torch.equal(small[0].approximation().left, exact.left.to(dtype))
