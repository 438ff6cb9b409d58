"""``mentor check``: what a model must show, on one page."""

import re

import pytest

from mentorlib.cli import main
from mentorlib.data.parquet import save_tasks
from mentorlib.data.suites import generate
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import model_page


def test_the_page_shows_the_shipped_student(capsys):
    assert (
        main(["check", "nano", "groups=2", "group_size=4", "lora_rank=4", "gradient_checkpointing=true", "bf16=true"])
        == 0
    )
    page = capsys.readouterr().out
    assert re.search(r"^model +Qwen3ForCausalLM, 2\.4 million parameters", page, re.M)
    assert re.search(r"^calls +Hermes format, '<tool_call>': rendered and read back$", page, re.M)
    assert re.search(r"^turn ends +<\|im_end\|> \(\d+\)$", page, re.M) and "2,048 tokens" in page
    assert re.search(r"^tokens +unseen +prompt \d+ \(at most \d+\), reference \d+", page, re.M)
    assert "micro_batch=8" in page and "a GRPO step of 2 x 4" in page


def test_the_tasks_may_be_those_of_a_run(tmp_path, capsys):
    save_tasks(Run("few", root=tmp_path), generate("wording", 3))
    assert main(["check", "nano", f"data={tmp_path / 'few'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tokens")]
    assert len(lines) == 1 and "wording" in lines[0]


def test_cheap_things_are_refused_before_a_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(model_page, "load_model", lambda *_, **__: pytest.fail("loaded"))
    for setting, expected in (
        ("groups=-4", "groups=-4: give a whole number of at least 1"),
        ("group_size=1", "a group needs at least 2 rollouts"),
        ("micro_batch=7", "micro_batch=7 must divide"),
        ("lora_rank=-1", "lora_rank=-1: give"),
        ("template=none.jinja", "template=none.jinja: cannot be read"),
        ("data=nowhere", "no such data set"),
        ("micro_bach=7", "did you mean micro_batch?"),
        ("groups=many", "groups takes int, not many"),
    ):
        assert main(["check", "nano", setting]) == 2
        assert expected in capsys.readouterr().err
    assert main(["check", "nanno"]) == 2
    assert "nanno: no such model folder" in capsys.readouterr().err


def test_what_a_model_cannot_show_is_one_line(tmp_path, capsys):
    model, tokenizer = load_model("nano")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for arguments, expected in (
        ([str(tmp_path)], "its chat template has no markers around turns: give template=FILE"),
        (["nano", "groups=many"], "groups takes"),
        (["nano", "colour=red"], "'colour' is no setting of check; there are template"),
        (["nano", "template=none.jinja"], "template=none.jinja: cannot be read"),
        (["nano", "groups"], "write parameters as key=value"),
    ):
        assert main(["check", *arguments]) == 2
        error = capsys.readouterr().err
        assert expected in error.splitlines()[-1], error
