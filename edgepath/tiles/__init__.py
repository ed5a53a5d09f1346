"""Tiles from folders, lists, packs and the generator; packs built and checked.

opening     a folder, files, a pack or `synthetic` -> a source of tiles
source      tiles by name, decoded as they are asked for
images      one image file -> one tile
formats     which image files are tiles, told by content
decoding    their pixels, decoded strictly; what is particular to jpeg, jpeg2000, tiff
splitting   tiles to calibrate on, and others held out
origins     what a table beside tiles, or their names, say of them
packs       calibration packs, built and checked; packformat: as they lie on disk
selection   the most different tiles
slides/     whole slides, cut into tiles
synthetic/  procedural tissue, in many stainings and scanners
"""
