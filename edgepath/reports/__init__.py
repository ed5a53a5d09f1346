"""What a person sees: tables in the terminal, Markdown, HTML pages, pictures."""
