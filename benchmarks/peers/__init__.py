"""The same work written plainly, with the usual libraries: what we measure ourselves against."""
