"""What the server lets in and out, without a browser."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import separate_networks

ROOT = Path(__file__).parents[2]

pytest.importorskip("gradio")

from starlette.testclient import TestClient  # noqa: E402

from l2sae_jax.app import server  # noqa: E402
from l2sae_jax.app.portraits import Editor  # noqa: E402


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        app = server.make_app(Editor(separate_networks()), folder)
        with TestClient(app, base_url="http://127.0.0.1:7860") as client:
            yield client


def test_the_page_is_served_with_a_policy_that_keeps_it_here(client):
    reply = client.get("/")
    assert reply.status_code == 200 and "Edit a face" in reply.text
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    assert "fonts.googleapis" not in reply.text


def test_other_names_for_this_computer_are_refused(client):
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400


def test_results_need_a_token(client):
    for what in ("photograph", "settings"):
        assert client.get(f"/results/guess/{what}").status_code == 404


def test_the_server_fetches_nothing_for_visitors(client):
    assert client.get("/gradio_api/file=http://example.com/a.png").status_code == 404
    assert client.get("/gradio_api/proxy=http://example.com/a.png").status_code == 404


def test_other_files_are_not_served(client):
    for path in (ROOT / "setup.cfg", "/etc/hostname"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_large_uploads_are_refused(client):
    data = b"0" * (server.MAX_UPLOAD_BYTES + 1_000)
    reply = client.post("/gradio_api/upload", files={"files": ("large.png", data)})
    assert reply.status_code == 413
    data += b"0" * 200_000
    reply = client.post("/gradio_api/queue/join", content=data)
    assert reply.status_code == 413
    reply = client.post("/gradio_api/queue/join", content=iter([b"{}"]))
    assert reply.status_code == 411


def test_a_taken_port_is_said_in_a_line():
    with (
        server._listening("127.0.0.1", 0) as listener,
        pytest.raises(OSError, match="try another --port"),
    ):
        listener.listen()
        with server._listening("127.0.0.1", listener.getsockname()[1]):
            pass


def test_an_ipv6_address_is_refused_in_a_line():
    with (
        pytest.raises(ValueError, match="host ::1: expected an IPv4 address or a name"),
        server._listening("::1", 0),
    ):
        pass


def test_help_needs_neither_jax_nor_gradio():
    code = (
        "import sys, app; assert app.main(['app.py', '--help']) == 0; "
        "assert not {'jax', 'gradio', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--host" in done.stdout


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("--port=-1", "port"), ("me.jpg", "'me.jpg' is not a flag"), ("--checkpoint=none", "none")],
)
def test_mistakes_are_told_in_a_line(argument, reason, capsys):
    import app

    assert app.main(["app.py", argument]) == 2
    message = capsys.readouterr().err
    assert message.startswith("app.py: error: ") and reason in message
    assert message.count("\n") == 1
