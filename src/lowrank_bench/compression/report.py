"""The report on one compression."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CompressionReport:
    """What was compressed, by which method, how much was saved, and with which error.

    Attributes
    ----------
    method, params, target
        As requested; the parameters with their defaults.
    layers
        For each layer its `name`, dense `shape`, and `rank` or whatever else was chosen.
    parameters_dense, parameters_kept
        Parameters of the targeted layers before and after.
    compression
        1 − kept/dense, as achieved; 32 bits of an index count as one parameter. Of methods that
        code it is the share of the bytes in float32.
    index_bits
        Bits of the integers that are stored with the parameters, such as the part of each row.
    data_used
        What the method looked at: the weights, the vocabulary's order, the training text.
    rel_error_fro, rel_error_l1, rel_error_l21
        Relative errors of the table in the network's precision: Frobenius, entrywise ℓ1, ℓ2,1.
    within_fro, within_l1, within_l21
        The error is at most this factor times the least error of any matrix of that rank; None
        where no bound is known (`linalg.certificates.certificate`).
    seconds
        Wall time of the factorization.
    network_parameters_dense, network_parameters_kept
        Parameters of the whole network before and after, counted on the two networks, shared ones
        once; what is saved there is at least what is saved in the layers.
    bytes_dense, bytes_checkpoint, bytes_kept
        Bytes of the targeted layers before, in float32 and in the types that the network had, and
        after, as `save` writes them (`compression.byte_counts`).
    network_bytes_dense, network_bytes_checkpoint, network_bytes_kept
        The same of the whole network.
    macs_dense, macs_kept
        Multiply-adds of one example, before and after. They are for whole networks only, and
        the six errors above for embeddings only.
    skipped
        The modules with weights that the target left out: `name`, `kind`, `parameters` and one
        `reason` each.
    skipped_share
        Their share of the network's parameters.
    other_parameters
        Parameters of normalisations and of vectors that stand alone. With those of the targeted
        layers and of the skipped modules they are all parameters of the dense network.
    info
        The method's own facts, for whole networks and for codes.
    """

    method: str
    params: dict[str, Any]
    target: str
    layers: list[dict[str, Any]]
    parameters_dense: int
    parameters_kept: int
    compression: float
    index_bits: int
    data_used: str
    seconds: float
    rel_error_fro: float | None = None
    rel_error_l1: float | None = None
    rel_error_l21: float | None = None
    within_fro: float | None = None
    within_l1: float | None = None
    within_l21: float | None = None
    network_parameters_dense: int | None = None
    network_parameters_kept: int | None = None
    bytes_dense: int | None = None
    bytes_checkpoint: int | None = None
    bytes_kept: int | None = None
    network_bytes_dense: int | None = None
    network_bytes_checkpoint: int | None = None
    network_bytes_kept: int | None = None
    macs_dense: int | None = None
    macs_kept: int | None = None
    skipped: list[dict[str, Any]] = field(default_factory=list)
    skipped_share: float = 0.0
    other_parameters: int = 0
    info: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON can hold."""
        return asdict(self)
