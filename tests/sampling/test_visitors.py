"""Who may ask the page's server: its own pages, by its own names, with its token."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from sampling.web.gate import BodyLimits, Gate
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import Visitors, visitors_of
from tests.paths import COCO_MINI

PICTURE = COCO_MINI / "images" / "000000017029.jpg"
TOKEN = "a-token-of-this-test"
HOSTS = ["127.0.0.1:7860", "192.168.1.7:7860"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """The whole server off loopback, with a folder of pictures."""
    folder = tmp_path_factory.mktemp("page")
    pattern = SimpleNamespace(style_tower=None)
    service = Service(None, pattern, folder / "results", Limits())  # type: ignore[arg-type]
    return build_app(service, visitors_of("0.0.0.0"), COCO_MINI / "images", 4)


@pytest.fixture(scope="module", params=HOSTS)
def client(server: Gate, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(server, base_url=f"http://{request.param}") as client:
        yield client


def gate(visitors: Visitors) -> TestClient:
    """A small server behind the gate, which answers with the path."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    app = Starlette()
    app.add_route("/{rest:path}", answer, methods=["GET", "POST"])
    return TestClient(
        Gate(app, BodyLimits(1 << 20, 1 << 20), visitors),
        base_url="http://127.0.0.1:7860",
        follow_redirects=False,
    )


@pytest.mark.parametrize(
    "origin", ["https://foreign.example", "http://127.0.0.1:9999", "null", "http://", "http://["]
)
def test_the_page_of_another_site_gets_nothing(client: TestClient, origin: str) -> None:
    foreign = {"Origin": origin}
    answers = [
        client.get("/page/choices", headers=foreign),
        client.get("/page/offered", params={"name": PICTURE.name}, headers=foreign),
        client.post("/page/look", content=PICTURE.read_bytes(), headers=foreign),
        client.post("/api/edit", json={}, headers=foreign),
        client.options("/api/edit", headers=foreign | {"Access-Control-Request-Method": "POST"}),
    ]
    for answer in answers:
        assert answer.status_code == 403
        assert answer.json() == {"error": "the page of another site cannot use this server"}
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_its_own_page_may_ask_and_no_answer_allows_others(client: TestClient) -> None:
    own = {"Origin": str(client.base_url), "Sec-Fetch-Site": "same-origin"}
    looked = client.post("/page/look", content=PICTURE.read_bytes(), headers=own)
    for answer in (looked, client.get("/page/choices", headers=own), client.get("/")):
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_a_browser_that_names_another_site_is_refused_but_a_link_is_followed(site: str) -> None:
    client, foreign = gate(visitors_of("127.0.0.1")), {"Sec-Fetch-Site": site}
    assert client.get("/page/choices", headers=foreign).status_code == 403
    assert client.post("/api/edit", headers=foreign | {"Sec-Fetch-Dest": "document"}).status_code == 403
    assert client.get("/", headers=foreign | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client.get("/", headers=foreign | {"Sec-Fetch-Dest": "document"}).status_code == 200


def test_a_name_that_another_site_points_here_is_refused_off_loopback_too() -> None:
    client = gate(visitors_of("0.0.0.0", ["Edit.Example"]))
    for host in ("10.0.0.1", "[fe80::1]:7860", "localhost:7860", "edit.example", "EDIT.example:443"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    for host in ("foreign.example", "10.0.0.1.foreign.example:7860", "", "[x]:1", "1.2.3"):
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.json() == {"error": "this server is not reached by that host name; see --host-name"}
    on_loopback = gate(visitors_of("127.0.0.1", ["edit.example"]))
    assert on_loopback.get("/", headers={"Host": "10.0.0.1:7860"}).status_code == 421
    assert on_loopback.get("/", headers={"Host": "edit.example"}).status_code == 200


def test_with_a_token_nothing_is_answered_without_it() -> None:
    client = gate(visitors_of("127.0.0.1", token=TOKEN))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/", "/page/choices", "/api/edit", "/page/offered?name=x", "/?token=wrong", "/?token="):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert "open /?token=TOKEN, or send Authorization: Bearer TOKEN" in answer.json()["error"]
        assert TOKEN not in answer.text
    assert client.post("/api/edit", headers=bearer).status_code == 200
    assert client.post("/api/edit", headers=bearer | {"Origin": "http://x.example"}).status_code == 403
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", TOKEN, f"Basic {TOKEN}"):
        assert client.get("/", headers={"Authorization": wrong}).status_code == 401, wrong


def test_the_printed_address_leaves_the_token_in_a_cookie_that_scripts_cannot_read() -> None:
    visitors = visitors_of("127.0.0.1", token=TOKEN)
    client = gate(visitors)
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    for word in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert word in answer.headers["set-cookie"]
    assert client.get("/page/choices").status_code == 200, "the client keeps the cookie, as a browser does"
    client.cookies.clear()
    for cookie in (f"{visitors.cookie}=wrong", "x", f'other="{TOKEN}"', "\x01=;;"):
        assert client.get("/", headers={"Cookie": cookie}).status_code == 401
