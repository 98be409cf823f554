"""Tables in integers of few bits: packing, quantizers, the allocation of bits, and codes."""
