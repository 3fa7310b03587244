"""The page, an API, and the health check."""

import json
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from wall.consumers import GROUP
from wall.models import Note
from wall.tasks import count_words

SHOWN = 20


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """The page with the newest notes."""
    return render(request, "wall/home.html", {"notes": Note.objects.all()[:SHOWN]})


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """200 only while the database answers."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"release": settings.RELEASE, "instance": settings.INSTANCE})


# Clients of the API have no cookie that somebody else's page could make use of.
@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
async def notes(request: HttpRequest) -> HttpResponse:
    """The newest notes, or a new one."""
    if request.method != "POST":
        return JsonResponse({"notes": [as_json(note) async for note in Note.objects.all()[:SHOWN]]})
    try:
        given = json.loads(request.body)
        note = Note(
            title=str(given["title"])[:200],
            body=str(given["body"]),
            request_id=given.get("request_id"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return JsonResponse({"error": "write JSON with title and body"}, status=400)
    await note.asave()
    await count_words.kiq(note.pk)
    layer = get_channel_layer()
    await layer.group_send(GROUP, {"type": "note.stored", "note": as_json(note)})
    return JsonResponse(as_json(note), status=201)


def as_json(note: Note) -> dict[str, Any]:
    """What clients are told of a note."""
    return {"id": note.pk, "title": note.title, "words": note.words}
