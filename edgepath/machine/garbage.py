"""Python's garbage collector, told to look at old objects less often."""

from __future__ import annotations

import gc

OLD = 100
"""Collections of the young and middle generations before all objects are looked at: ten times Python's default."""


def spare_old_objects() -> None:
    """Look at all objects of this process a tenth as often; what lived shortly is collected as ever.

    PyTorch, timm and a traced model are a million objects that stay. To look at them again and again takes a quarter of
    the time to import them, and an eighth of that of an export from kept ranges. For a process of edgepath's own: a
    program that imports edgepath decides for itself.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, OLD)
