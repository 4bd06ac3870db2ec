"""A finished folder for the eye: contact sheets, statistics, pictures that look alike."""
