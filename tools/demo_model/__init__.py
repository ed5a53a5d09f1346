"""What made the trained `demo` model that ships with edgepath; see README.md."""
