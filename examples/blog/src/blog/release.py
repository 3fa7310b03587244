"""Says in every response which release gave it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ReleaseHeader:
    """Plain ASGI, around the whole app: streams are not buffered, and error pages have it too."""

    def __init__(self, app: ASGIApp, release: str) -> None:
        self.app = app
        self._header = (b"x-release", release.encode("latin-1"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_release(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self.app(scope, receive, send_with_release)
