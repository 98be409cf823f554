"""Facts about the rows of an embedding, from its tokenizer and from training texts."""

from collections.abc import Iterable, Mapping
from typing import Any

from lowrank_bench.compression.request import Numbers, as_texts
from lowrank_bench.errors import LowRankError


def read_facts(
    facts: Mapping[str, Numbers | None],
    needs: tuple[str, ...],
    rows: int,
    tokenizer: Any,
    texts: Iterable[str] | None,
) -> dict[str, Numbers | None]:
    """Return the facts that are needed, absent so far, and known from tokenizer and texts.

    Parameters
    ----------
    facts
        What is known: `frequency` and `counts`, or None.
    needs
        What the method needs.
    rows
        Rows of the table.

    Raises
    ------
    LowRankError
        When texts come without a tokenizer, or it does not fit the table.
    """
    read: dict[str, Numbers | None] = {}
    if "frequency" in needs and facts["frequency"] is None and tokenizer is not None:
        from lowrank_bench.inputs.text.vocabulary import vocabulary_frequency

        read["frequency"] = vocabulary_frequency(tokenizer, rows)
    if "counts" in needs and facts["counts"] is None and texts is not None:
        if tokenizer is None:
            raise LowRankError("texts are counted in tokens; give the tokenizer with them")
        from lowrank_bench.inputs.text.counts import token_counts

        read["counts"] = token_counts(tokenizer(as_texts(texts))["input_ids"], rows)
    return read
