"""What an ASGI server is given: pages by Django, WebSockets by Channels."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wall.settings")
# Sets Django up, which what is imported next needs.
pages = get_asgi_application()

from wall.consumers import WallConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AllowedHostsOriginValidator(
            URLRouter([path("ws", WallConsumer.as_asgi())]),
        ),
    }
)
