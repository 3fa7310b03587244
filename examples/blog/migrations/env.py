"""Runs migrations against the database that DATABASE_URL names."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from blog.settings import ConfigurationError
from blog.tables import metadata


def database_url() -> str:
    try:
        return os.environ["DATABASE_URL"]
    except KeyError:
        raise ConfigurationError("not set in the environment: DATABASE_URL") from None


def migrate() -> None:
    engine = create_engine(database_url(), poolclass=NullPool)
    with engine.connect() as connection:
        # The old release still serves: rather give up than queue its queries behind our lock.
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()


def print_sql() -> None:
    context.configure(url=database_url(), target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    print_sql()
else:
    migrate()
