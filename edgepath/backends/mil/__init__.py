"""ML programs, Core ML's format, without Core ML: `program` reads a package, `evaluation` computes it with `ops`."""
