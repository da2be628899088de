"""Everything that talks to PostgreSQL: sessions, its programs, its catalogue, an embedded server."""
