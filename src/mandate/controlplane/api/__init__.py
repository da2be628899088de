"""HTTP: parameters, cursors, problems, routes."""
