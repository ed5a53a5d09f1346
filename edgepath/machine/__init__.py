"""This machine: its packages and processor, progress of long work, files written whole."""
