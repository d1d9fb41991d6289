"""What prepared data is, and what is wrong with it: for people, for a run before it starts, byte by byte."""
