"""Diffusion models: the noise schedule, the components, their ensemble, and the sampling loop.

A denoiser maps `(x_t, t) -> predicted noise`; components, ensembles and ablated ensembles all are denoisers, so
samplers know nothing about ablation. It may import `codes`, `data` and `_runtime`.
"""
