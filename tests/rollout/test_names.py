"""Names of models and addresses of servers, refused before anything is loaded."""

import subprocess
import sys

import pytest

from mentorlib.core import InputError
from mentorlib.rollout.names import NANO, check_policy, find_model


def test_models_are_folders_files_or_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    (tmp_path / "model.gguf").touch()
    assert find_model("nano") == NANO and find_model(str(NANO)) == NANO and find_model("Qwen/Qwen3-1.7B") is None
    assert str(find_model("model.gguf")) == "model.gguf"
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nofolder", "./no", "a/b/c", "/no/where", "other.gguf", "", "owner/model.gguf", "../x"):
        with pytest.raises(InputError, match=r"no model folder|no such model folder") as error:
            find_model(name)
        assert str(error.value).startswith(name) and "\n" not in str(error.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install gguf"):
        find_model("model.gguf")


def test_servers_need_an_address_and_a_name():
    check_policy("http://localhost:8000/v1", "m")
    check_policy("nano", "")
    for url, model, says in [
        ("http://localhost:8000/v1", "", "which model"),
        ("ftp://x/v1", "m", "not a server's address"),
        ("http://[::1", "m", "not a server's address"),
        ("https://me:key@x/v1", "m", "holds a key"),
    ]:
        with pytest.raises(InputError, match=says):
            check_policy(url, model)


def test_checking_names_loads_no_torch():
    code = "import sys, mentorlib.rollout.names; sys.exit(bool({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
