"""Files that systems and file servers leave in folders of others: no part of what a folder holds, no damage to it."""

from __future__ import annotations

_NAMES = {
    *(".ds_store", ".appledouble", ".apdisk", ".localized", "icon\r", "__macosx"),  # macOS, and its zip files
    *(".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", ".documentrevisions-v100"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", ".@__thumb", ".snapshot"),  # servers
    *("lost+found", ".directory"),
}


def is_leftover(name: str) -> bool:
    """Tell by its name whether a file or folder is such a leftover; `._x` is what macOS keeps of x elsewhere."""
    return name.startswith("._") or name.lower() in _NAMES
