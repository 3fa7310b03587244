"""What the worker does. It is started with wall.worker:broker."""

from django.conf import settings
from taskiq_redis import ListQueueBroker

from wall.models import Note

broker = ListQueueBroker(settings.REDIS_URL, queue_name="wall")


@broker.task
async def count_words(number: int) -> None:
    """Counts the words of a note."""
    note = await Note.objects.aget(pk=number)
    await Note.objects.filter(pk=number).aupdate(words=len(note.body.split()))
