"""Postgres: migrations, repositories, the embedded server."""
