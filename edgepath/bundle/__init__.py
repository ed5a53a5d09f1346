"""The bundle, a folder on disk: written, opened with every hash checked, run, and embedded with."""
