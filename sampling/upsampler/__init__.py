"""The second stage of a cascade: large windows are painted again at their own resolution."""
