"""Alembic migrations of the records in models/."""
