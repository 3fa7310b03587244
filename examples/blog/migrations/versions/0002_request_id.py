"""A request id per post, so a client that repeats a request does not post twice."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("posts", sa.Column("request_id", sa.Text))
    op.create_index("posts_request_id", "posts", ["request_id"], unique=True)


def downgrade() -> None:
    op.drop_index("posts_request_id", "posts")
    op.drop_column("posts", "request_id")
