"""Streamed log-sum-exps and their gradients as Triton kernels for CUDA (see :mod:`..contrast.log_sum_exp`).

A kernel that makes a block of scores also takes the exponentials, so that scores never reach memory. Forward is one
matrix product. Backward makes the scores again, a strip of rows at a time, turns them into weights ``dL/dS``, and
multiplies these with the vectors of either side. A strip has a fixed size whatever the batch, and no kernel writes
where another one does, so results are the same to the last bit every time.

Vectors in half precision are multiplied as they are, which is exact, and summed in float32. Factors of the rows and
columns, ``S_ij = u_i v_j <a_i, b_j>``, make that the score of vectors that are rescaled. Nothing here needs Triton to
be imported, only to be called.
"""
