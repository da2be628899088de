"""Identity change of live tables. Knows no table of Mandate."""
