"""Robust after quantization: does the artifact see the same tissue under another stain and scanner as the model does?

slides        registered slides: PLISM's files, folders of one's own, synthetic tissue
featurefolder their embeddings on disk, in plism-benchmark's layout
metrics       PLISM's figures, block by block
measuring     `robustness`, which joins them for a bundle and its full-precision model
perturbations what a laboratory, a scanner or a file format does to a tile, by degrees
curves        `curves`: how far each degree moves both models
"""
