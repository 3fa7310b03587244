"""Notes its run in the database, then migrates; Alembic alone would not tell a second run."""

import os
import socket

from alembic.config import main
from sqlalchemy import create_engine, text

NOTE = (
    "CREATE TABLE IF NOT EXISTS migration_runs"
    " (release text, host text, at timestamptz DEFAULT now())",
    "INSERT INTO migration_runs (release, host) VALUES (:release, :host)",
)

engine = create_engine(os.environ["DATABASE_URL"])
with engine.begin() as connection:
    for statement in NOTE:
        values = {"release": os.environ["ASGI_RELEASE"], "host": socket.gethostname()}
        connection.execute(text(statement), values)
main(["upgrade", "head"])
