"""How much a compressed layer saves."""


def compression_of(kept: int, index_bits: int, dense: int) -> float:
    """Return 1 − stored/original numbers; 32 bits of an index count as one number.

    Parameters
    ----------
    kept, dense
        Numbers of the compressed and of the dense layer.
    index_bits
        Bits of the integers stored with them.
    """
    return 1 - (kept + index_bits / 32) / dense
