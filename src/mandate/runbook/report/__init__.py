"""The report of a run: one record, four forms. Everything here is derived; nothing is claimed."""
