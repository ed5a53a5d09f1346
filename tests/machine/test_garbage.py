"""A process of edgepath's own collects young garbage as ever, and looks at old objects seldom."""

from __future__ import annotations

import json
import subprocess
import sys

# In a process of its own: how often Python looks at all objects depends on how many there are already.
COUNT = """
import gc, json
from edgepath.machine.garbage import spare_old_objects

def whole_collections():
    gc.collect()
    before = gc.get_stats()[2]["collections"]
    kept = [[i] for i in range(300_000)]  # objects that stay
    return gc.get_stats()[2]["collections"] - before + (len(kept) - 300_000)

class Loop:
    def __init__(self):
        self.own = self

as_python_does, before = whole_collections(), gc.get_threshold()
spare_old_objects()
sparing = whole_collections()
for _ in range(20_000):
    Loop()
left = sum(type(one) is Loop for one in gc.get_objects())
print(json.dumps([before, gc.get_threshold(), as_python_does, sparing, left]))
"""


def test_old_objects_are_looked_at_less_often_and_young_ones_as_ever() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, after, as_python_does, sparing, left = json.loads(done.stdout)
    assert after == [*before[:2], 100]
    assert sparing < as_python_does
    assert left < 5_000
