"""Tables stored in few bits: packed integers, their codebooks, and who gets how many bits.

A quantizer gives every number the same bits, low rank gives 32 or none; both are corners of one
allocation over (band of rows, direction). Import from the submodules.
"""
