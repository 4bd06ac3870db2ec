"""The commands of `python -m dataprep`: one file for each, with one function `add`."""
