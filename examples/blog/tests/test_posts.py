from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx


def publish(client: httpx.Client, **values: str) -> httpx.Response:
    return client.post("/api/posts", json={"title": "Title", "body": "Body"} | values)


def test_a_post_can_be_read_again(client: httpx.Client) -> None:
    created = publish(client, title="Hé", request_id="one")
    assert created.status_code == 201

    post = client.get(f"/api/posts/{created.json()['id']}").json()
    assert (post["title"], post["body"], post["request_id"]) == ("Hé", "Body", "one")
    assert client.get("/api/requests/one").json() == post


def test_what_is_not_there(client: httpx.Client) -> None:
    assert client.get("/api/posts/7").status_code == 404
    assert client.get("/api/requests/never").status_code == 404


def test_a_request_id_is_taken_once(client: httpx.Client) -> None:
    assert publish(client, request_id="one").status_code == 201
    assert publish(client, request_id="one").status_code == 409
    assert len(client.get("/api/posts").json()) == 1


def test_a_request_id_is_taken_once_by_many_at_a_time(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: publish(client, request_id="one").status_code, range(24))
    assert sorted(answers) == [201] + [409] * 23


def test_posts_without_request_id_do_not_collide(client: httpx.Client) -> None:
    assert [publish(client).status_code for _ in range(2)] == [201, 201]


def test_the_list_can_be_walked(client: httpx.Client) -> None:
    numbers = [publish(client).json()["id"] for _ in range(5)]
    first = [post["id"] for post in client.get("/api/posts?limit=3").json()]
    rest = [post["id"] for post in client.get(f"/api/posts?limit=3&after={first[-1]}").json()]
    assert first + rest == numbers


def test_unusable_values(client: httpx.Client) -> None:
    answers: list[Callable[[], httpx.Response]] = [
        lambda: publish(client, title=""),
        lambda: publish(client, body="a\0b"),
        lambda: client.get("/api/posts?limit=0"),
        lambda: client.get(f"/api/posts/{10**30}"),
        lambda: client.get("/slow?seconds=61"),
    ]
    assert [answer().status_code for answer in answers] == [422] * len(answers)


def test_only_the_edit_token_deletes(client: httpx.Client) -> None:
    mine, other = publish(client).json(), publish(client).json()
    path = f"/api/posts/{mine['id']}"

    assert client.delete(path).status_code == 422
    assert client.delete(path, headers={"X-Edit-Token": other["edit_token"]}).status_code == 403
    assert client.delete(path, headers={"X-Edit-Token": mine["edit_token"]}).status_code == 204
    assert client.delete(path, headers={"X-Edit-Token": mine["edit_token"]}).status_code == 404


def test_the_page_shows_the_newest_and_escapes(client: httpx.Client) -> None:
    for number in range(21):
        publish(client, title=f"<b>{number:02}</b>")
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text.index("&lt;b&gt;20&lt;") < page.text.index("&lt;b&gt;01&lt;")
    assert "&lt;b&gt;00&lt;" not in page.text
    assert "<b>" not in page.text
