"""RunConfig: composed from each room's own config, loaded from YAML with dotted overrides, checked as a whole."""
