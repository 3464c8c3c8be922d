"""Every example of conf/examples/ is accepted and passes its file of tests."""

from __future__ import annotations

import pathlib
import re

import pytest

from relayd.cli.main import main
from tests.aids.certificates import made
from tests.aids.tokens import Signer, key_set

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "conf" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A machine on which the examples are installed, with their keys and certificates in a temporary folder."""
    top = tmp_path_factory.mktemp("etc")
    (top / "relayd" / "keys").mkdir(parents=True)
    (top / "relayd" / "tls").mkdir()
    for path in [*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("tests/*.yaml")]:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"/etc/relayd/keys/([a-z]+)", text):
            key = top / "relayd" / "keys" / name
            key.write_text(f"key-of-{name}", encoding="utf-8")
            key.chmod(0o640)
        place = top / path.relative_to(EXAMPLES)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text.replace("/etc/", f"{top}/"), encoding="utf-8")
    (top / "relayd" / "prices.yaml").write_bytes((EXAMPLES.parent / "prices.yaml").read_bytes())
    return top


def with_files(machine: pathlib.Path, name: str) -> str:
    """The path of the example, after creating the certificates and the keys of an issuer that it names."""
    text, folder = (machine / name).read_text(encoding="utf-8"), machine / "relayd"
    for certificate in re.findall(r"cert: \S+/tls/([a-z-]+)\.pem", text):
        made(folder / "tls", certificate, "example.org")
    for authority in re.findall(r"client_ca: \S+/tls/([a-z-]+)\.pem", text):
        made(folder / "tls", authority, authority=True)
    if "jwks.json" in text:
        pytest.importorskip("jwt", reason="needs python3-jwt")
        (folder / "jwks.json").write_bytes(key_set(Signer("ES256")))
    if "kind: redis" in text:
        pytest.importorskip("redis", reason="needs python3-redis")
    return str(machine / name)


@pytest.fixture(autouse=True)
def state(machine: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state directory of the service, for certificates."""
    monkeypatch.setenv("STATE_DIRECTORY", str(machine))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_accepted(machine: pathlib.Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", with_files(machine, name)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_its_tests(machine: pathlib.Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = main(["test", "-c", with_files(machine, name), str(machine / "tests" / name)])
    shown = capsys.readouterr()
    assert told == 0, shown.out + shown.err
    assert re.search(r"^(\d+) of \1 hold$", shown.out, re.MULTILINE)


def test_there_is_an_example_for_each_stack_that_relayd_replaces() -> None:
    assert len(NAMES) >= 5 and {path.name for path in EXAMPLES.glob("tests/*.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_describes_its_purpose_and_contains_no_key(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert text.startswith("# ") and all(len(line) <= 120 for line in text.splitlines())
    assert not re.search(r"(?:sk-|AIza)[A-Za-z0-9_-]{8}", text)
