"""The WebSocket: tells every new note, whichever process has stored it."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

GROUP = "wall"


class WallConsumer(AsyncJsonWebsocketConsumer):
    """One reader of the wall."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        await self.send_json({"instance": settings.INSTANCE, "release": settings.RELEASE})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def note_stored(self, event: dict[str, Any]) -> None:
        """Called by the channel layer."""
        await self.send_json(event["note"])
