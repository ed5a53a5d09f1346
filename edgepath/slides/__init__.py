"""Whole slides in, embeddings out: one file a slide, with a record of what made it.

results     what is said of a slide
listing     folders, files, a manifest.csv or procedural slides -> slides with ids
streaming   a cut slide -> batches of tiles, read ahead
layouts/    the files that other tools read: trident, clam, stamp, parquet, anndata; and GeoJSON for QuPath
sidecar     the record beside each file, and whether a file that is there is to be kept
preparing   a slide opened, identified and cut, while the one before it is embedded
embedding   one prepared slide, from its tiles to its file
many        all slides of a job, here or as one shard of several
cluster     all slides of a job on a Ray cluster
checking    is a folder complete, and of one artifact?
"""
