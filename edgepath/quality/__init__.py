"""Is the artifact's embedding still good for something, beside the full-precision model's?

both_models     both models of a bundle, opened for the same tiles, and what every result says
robustness      does a tile find the same tissue under another stain and scanner? PLISM's figures
  slides        registered slides: PLISM's files, folders of one's own, synthetic tissue
  feature_folder  their embeddings on disk, in plism-benchmark's layout
  pairs         every pair of slides, and what the two differ in
  plism         the figures, block by block; plism_float16: as plism-benchmark prints them
curves          how far both models move, degree by degree
  perturbations   what a laboratory, a scanner or a file format does to a tile
probing         labels from embeddings
  labelled      tiles with labels, and which belong together
  classifiers   neighbours, a linear layer, and their scores
  score_losses  what was lost of a score, and how sure that is
results         what all of these return
hest            genes from embeddings, by the HEST-Benchmark's protocol
"""
