"""Kernels: matrix products of experts' rows, computed by what is fastest on this device.

    grouped_matmul   rows sorted by expert, any number for each: one front with every derivative, vmap, export
    slots            each expert as many rows, under `jax.vmap` over experts
    cpu              on CPUs: `cpu_blas` by a library (`blas_threads` runs it), `cpu_blocks` by XLA's products
    gpu              on NVIDIA GPUs: `gpu_mosaic` where it is right when tried
    ragged           everywhere else: XLA's own
    bfloat16         products of narrow numbers that are added up in float32
    multilinear      what they are all made by: functions that are linear in each of their first arguments

Nothing here knows what a router or a layer is.
"""
