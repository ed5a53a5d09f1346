"""Tiles from folders, lists, packs and the generator; packs built and checked."""
