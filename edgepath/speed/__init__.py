"""How fast artifacts are, measured so that a noisy machine does not decide.

Everything that is compared runs in turn within one process, with the same tiles and threads; a result is the median of
the ratios within a round. What only a fresh process shows (cold start, peak memory) is measured in fresh processes.

    timing       one call of each after the other, and what the samples say
    pinning      the same cores and threads for all
    contenders   what is timed: bundles, their model in full precision, PyTorch
    rivals       what bundles are held against, built once; peers: what other tools make of the same model
    fresh        cold start and peak memory
    operations   where the time goes
    benchmark    `bench`: all of it
    reference    `bench reference`: PyTorch in every precision, from one tile to 256
    gate         is INT8 faster than full precision?
    baseline     earlier results: is a bundle slower than it was?
    device       what devices reported
    results      what `bench` returns
"""
