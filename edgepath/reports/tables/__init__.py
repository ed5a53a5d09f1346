"""Results as tables, whatever shows them.

drift     drift, gates, where the figures of a bundle came from, what devices reported
checks    what `compare`, `debug`, `lint` and `search` found
quality   what `robustness`, `curves` and `probe` found
speed     what `bench` measured
"""
