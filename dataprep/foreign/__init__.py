"""Webdatasets of other programs: what their members mean, and an index that makes their order exact."""
