"""Writes the tables of docs/untouched.md: `PYTHONPATH=tests python -m recipes`."""

from recipes.table import write_page

write_page()
