"""ExecuTorch programs read back: `flat` reads FlatBuffers, `program` a file, `parts` its numbers, `layers` runs one."""
