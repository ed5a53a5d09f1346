"""Genes from tissue: the HEST-Benchmark's protocol on a bundle's embeddings and on its full-precision model's.

tasks      the benchmark's folder: tasks, splits, samples, genes
h5ad       the expression of some spots and genes, out of an AnnData file
ridge      scaler, PCA and ridge regression; Pearson a gene
measuring  `probe_hest`, which joins them for a bundle and its full-precision model

Definitions of mahmoodlab/HEST (arXiv 2406.16192), `src/hest/bench`.
"""
