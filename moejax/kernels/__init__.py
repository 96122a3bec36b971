"""Kernels: matrix products of experts' rows, computed by what is fastest on this device.

    groups           where each expert's group of rows starts, and how many it has
    grouped_matmul   rows in groups times their experts' matrices: one front with every derivative, vmap, export
    slots            each expert as many rows, under `jax.vmap` over experts
    cpu_blas         on CPUs by a library of products, which `blas_threads` runs on all cores; `cpu_blocks` by XLA's
    numpy_calls      Python functions that programs on CPUs call by name
    gpu              on NVIDIA GPUs `gpu_mosaic` or `gpu_tokamax`, where they are right when tried
    ragged           everywhere else: XLA's own
    bfloat16         products of narrow numbers that are added up in float32
    int8             products with a matrix of whole numbers, which is read as it is kept
    multilinear      what they are all made by: functions that are linear in each of their first arguments

Nothing here knows what a router or a layer is.
"""
