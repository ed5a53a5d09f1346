"""What a target asks for: recipes, read strictly from TOML."""
