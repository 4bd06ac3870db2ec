"""A record and its pixels to a sample: crop, edit mask and exemplar."""
