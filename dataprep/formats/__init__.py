"""Files of annotations as tools write them, to columns; a source says which of them it reads."""
