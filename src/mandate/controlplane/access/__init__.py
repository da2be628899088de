"""Who may do what: tokens, the principal behind a request, and what the database lets each role do."""
