"""Distillation as H0-mini was made: a frozen teacher, DINO on the class token, iBOT on every patch token.

    options    every number of a run, from a TOML recipe
    views      a tile -> global and local crops, with pathology augmentations
    loader     which tile comes when, and views made ahead of the training step
    heads      tokens -> prototype logits, of the student (trained) and of the teacher (fixed)
    losses     centering, Sinkhorn-Knopp, the two cross-entropies
    networks   teacher and student around timm's models
    checkpoint a run's whole state, written aside and renamed
    runfolder  what a run leaves: weights, config, log, plot
    run        models, optimizer and centers of a run: one step, and its whole state
    loop       step after step, with a log, checkpoints, and an end that Ctrl-C may bring forward
    training   `distill`, which joins them
    dryrun     one step at full size with random weights: does it fit, how fast is it

Source of the method: Filiot et al., arXiv 2501.16239 (H0-mini); formulas: DINO (arXiv 2104.14294), iBOT (arXiv
2111.07832), DINOv2 (arXiv 2304.07193).
"""
