"""The layer of two factors that replaces a dense layer of any kind."""

from torch import Tensor, nn

from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.network.layers import bias_of


def factorized_layer(
    dense: nn.Module, left: Tensor, right: Tensor, scheme: int = 0, shift: Tensor | None = None
) -> nn.Module:
    """Return the layer whose weight is the product of two factors, in the precision of `dense`.

    Parameters
    ----------
    dense
        An `nn.Conv2d`, `nn.Linear` or `nn.Embedding`.
    left, right
        Tensors k×m×j and k×j×n whose products stand for the slices of the folded weight; for a
        single slice, and for an embedding always, m×j and j×n.
    scheme
        Folding scheme of a convolution (`layers.fold`).
    shift
        Added to the bias: tensor of the number of outputs. None leaves the bias unchanged; an
        embedding, which has no bias, ignores it.

    Raises
    ------
    LowRankError
        When the shapes do not fit.
    """
    if isinstance(dense, nn.Embedding):
        return compressed_embedding(dense, Factors(left, right))
    bias, old = shift, bias_of(dense)
    if shift is not None and old is not None:
        bias = shift + old.detach().to(shift)
    if isinstance(dense, nn.Linear):
        return FactorizedLinear.from_dense(dense, left, right, bias)
    assert isinstance(dense, nn.Conv2d)
    return FactorizedConv2d.from_dense(dense, left, right, scheme, bias)
