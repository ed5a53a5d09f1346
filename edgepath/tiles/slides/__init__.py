"""Whole slides cut into tiles of an exact scale.

reader      a file of any scanner -> regions of pixels, a bad one at a time
formats     one open file, by OpenSlide or by wsidicom
scale       micrometres per pixel: where they come from, which level is read, what is refused
tissue      where on the slide there is something to see
annotation  polygons of a GeoJSON, drawn as a mask
grid        where the tiles lie
cutting     all of it together: a slide and settings -> tiles
source      slides where a folder of tiles is asked for
synthetic   procedural slides, for tests and first steps
"""
