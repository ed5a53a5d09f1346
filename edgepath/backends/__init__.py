"""One module per runtime, each with two names: `build` makes the artifact, `Runner` runs it."""
