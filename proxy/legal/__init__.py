"""The legal desk: cases from a served instrument to a certified production."""
