"""The service that answers agents and auditors."""
