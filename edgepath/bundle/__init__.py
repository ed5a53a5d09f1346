"""The bundle, a folder on disk: written, opened with every hash checked, run, and embedded with.

bundle          an opened bundle; nothing of it is loaded before its hashes were checked
manifest        bundle.json, read before anything else; drift: how far embeddings lie apart, as a value
writer          a bundle written complete, or not at all; kit: what it carries for its device
running         its artifact run on tiles
embedding       tiles -> a file of embeddings; features: the formats of such files
device_reports  what devices measured, kept beside it
"""
