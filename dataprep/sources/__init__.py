"""What each source of annotations says about itself, a module and a row for each."""
