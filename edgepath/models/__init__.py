"""Which models there are, their weights, and their full-precision embeddings.

catalogue    names, architectures, preprocessing, licences
weights      a model with its weights; weightfiles: the files they come in
reference    what every artifact is measured against: the unmodified model in FP32
"""
