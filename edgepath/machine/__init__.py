"""This machine: its packages and processor, progress of long work, files written whole.

packages    which packages are installed, and what installs the others
hardware    processor, memory, GPU
progress    stages of long work: how far, how long, how much memory
garbage     Python's garbage collector, told to look at old objects less often
quiet       other tools kept off the terminal
writing     what is written appears complete, or not at all
cache       what can be computed again, kept by all that it depends on
hdf5        data sets held against their file (hdf5_texts: by another process; hdf5_writing)
shipped     where recipes, kits and packs lie
fresh_process a module of edgepath as a process of its own
privacy     packages report nothing to their vendors
tables      JSON and TOML read strictly into typed values, one line for what is off
sheets      CSV read strictly, and written without formulas
leftovers   what systems leave in folders, told by its name
"""
