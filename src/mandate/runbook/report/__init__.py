"""The pages and files that tell a person what a run did."""
