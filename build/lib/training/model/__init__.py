"""The model as a run trains it: initialised, frozen in part, adapted, compiled."""
