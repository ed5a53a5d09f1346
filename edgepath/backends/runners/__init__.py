"""One module a runtime; each stands alone, as it is copied into the kits of bundles."""
