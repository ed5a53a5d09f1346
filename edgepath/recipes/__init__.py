"""What a target asks for: recipes, read strictly from TOML.

recipe    the values, and which combinations can be built
toml      their files
"""
