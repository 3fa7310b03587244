"use strict";
// New notes appear at once. A release closes the connection, so another one is opened.
function listen() {
  const socket = new WebSocket(`wss://${location.host}/ws`);
  socket.onmessage = (event) => {
    const note = JSON.parse(event.data);
    if (note.title === undefined) return;
    const item = document.createElement("li");
    item.textContent = note.title;
    document.getElementById("notes").prepend(item);
  };
  socket.onclose = () => setTimeout(listen, 500 + Math.random() * 1000);
}
listen();
