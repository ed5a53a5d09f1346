"""What a person sees.

table       a table as a value; tables/: every table there is
console     the terminal
markdown    report.md
page/       report.html
plots       pictures with matplotlib; drawings: every picture there is
"""
