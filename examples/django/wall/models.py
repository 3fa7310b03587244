"""What is stored."""

from django.db import models


class Note(models.Model):
    """A note on the wall."""

    title = models.CharField(max_length=200)
    body = models.TextField()
    # Of the client, so that it can find out whether a request without an answer was done.
    request_id = models.CharField(max_length=64, unique=True, null=True)
    # Counted by the worker.
    words = models.IntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.title
