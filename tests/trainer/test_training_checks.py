"""What training refuses before anything is loaded: every parameter of notebook 02, in one line that names it."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mentorlib.core import InputError
from mentorlib.data.parquet import save_tasks
from mentorlib.data.suites import generate
from mentorlib.lab.batch import notebook
from mentorlib.lab.batch.parameters import parameters_of, read_notebook
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer.checks import check_settings, check_tasks, check_training
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.setup import save_model
from mentorlib.trainer.sft import train_sft

NOTEBOOK = Path(__file__).parents[2] / "notebooks/02_train.ipynb"
DEFAULTS = {p.name: p.default for p in parameters_of(read_notebook(NOTEBOOK))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    pairs = [*generate("calculator", 12, seed=1), *generate("calculator", 3, seed=1, split="eval")]
    save_tasks(Run("data", root=root), [*pairs, *generate("retrieval", 3, seed=1, split="eval")])
    return str(root / "data")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *[({"temperature": t}, "temperature above 0") for t in (0.0, -1.0, math.nan, math.inf)],
        *[({"learning_rate": r}, "give a number above 0") for r in (0.0, -1e-4, math.nan, math.inf)],
        *[({"beta": b}, "give a number of at least 0") for b in (-0.001, math.nan, math.inf)],
        *[({name: 0}, f"{name}=0: give a whole number of at least 1") for name in ("steps", "groups", "max_tokens")],
        *[
            ({name: 0}, f"{name}=0: give a whole number of at least 1")
            for name in ("max_turns", "max_length", "n_eval")
        ],
        *[({name: -1}, f"{name}=-1: give a whole") for name in ("lora_rank", "micro_batch", "save_steps", "seed")],
        ({"steps": 2.5}, r"steps=2\.5: give a whole number"),
        ({"seed": 2**32}, "at most 4294967295"),
        ({"group_size": 1}, "at least 2 rollouts"),
        ({"group_size": 0, "method": "sft"}, "group_size=0"),
        ({"temperature": 0.0, "method": "sft"}, ""),
        ({"group_size": 1, "method": "sft"}, ""),
        ({"group_size": 1, "method": "none"}, ""),
        ({"micro_batch": 7}, "micro_batch=7 must divide the batch of 64"),
        ({"launcher": "accelerate", "processes": 3}, "3 processes cannot share a step's 8 groups"),
        ({"launcher": "accelerate", "processes": 0}, "processes=0"),
        ({"launcher": "torchrun"}, 'choose "accelerate"'),
        ({"accelerate_config": "none.yaml"}, "no such file"),
        ({"vllm": "yes"}, 'choose "colocate"'),
        ({"vllm": "server", "launcher": "accelerate", "processes": 2}, "serves one training process"),
        ({"reward": "nice"}, "unknown reward 'nice'"),
        ({"reward": "exat"}, "did you mean exact"),
        ({"reward": "nowhere.py:f"}, "reward=nowhere.py:f: nowhere.py cannot be read"),
        ({"method": "dpo"}, "unknown method 'dpo'"),
        ({"method": "gkd"}, "give teacher=FOLDER"),
        ({"report_to": "mlflow"}, 'choose "tensorboard"'),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout": 0.0}, "timeout=0"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(settings, words):
    if not words:
        return check_settings(**DEFAULTS | settings)
    with pytest.raises(InputError, match=words) as caught:
        check_settings(**DEFAULTS | settings)
    assert "\n" not in str(caught.value)
    return None


def test_the_functions_refuse_what_the_notebook_refuses(tmp_path, sandbox):
    model, tokenizer = load_model("nano")
    pairs, run = generate("calculator", 8, seed=1), Run("bad", root=tmp_path)
    for settings in ({"temperature": 0.0}, {"learning_rate": 0.0}, {"max_tokens": 0}, {"beta": -1.0}, {"seed": -1}):
        (name,) = settings
        with pytest.raises(InputError, match=f"{name}="):
            train_grpo(run, model, tokenizer, pairs, sandbox, **settings)
    for settings in ({"learning_rate": math.nan}, {"steps": 0}, {"batch_size": 0}, {"max_length": 0}, {"seed": -1}):
        (name,) = settings
        with pytest.raises(InputError, match=f"{name}="):
            train_sft(run, model, tokenizer, pairs, **settings)
    assert sorted(os.listdir(run.path)) == [".writer", "run.json"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eval_suites": ["calculator", "retreival"]}, "no rows of suite 'retreival'.*did you mean retrieval/eval"),
        ({"eval_suites": []}, "name at least one suite"),
        ({"eval_split": "evl"}, "did you mean calculator/eval"),
        ({"eval_split": "validation"}, "it holds calculator/eval, calculator/train, retrieval/eval"),
        ({"suite": "calculater"}, "did you mean calculator/train"),
        ({"suite": "retrieval"}, "no rows of suite 'retrieval', split 'train'"),
        ({"groups": 13, "group_size": 2}, "13: suite 'calculator' has 12 training tasks.*groups=12 or lower"),
        ({"groups": 13, "method": "sft"}, ""),
        ({"data": "nowhere"}, "run 01_build_data first"),
        ({"student": "nofolder"}, "nofolder: no such model folder"),
        ({"student": "http://localhost:8000/v1", "method": "none"}, "which model"),
        ({"method": "gkd", "teacher": "./nofolder"}, "no such model folder"),
    ],
)
def test_the_data_are_checked_before_training(data, settings, words):
    parameters = DEFAULTS | {"data": data, "eval_suites": ["calculator", "retrieval"]} | settings
    if not words:
        return check_training(**parameters)
    with pytest.raises(InputError, match=words):
        check_training(**parameters)
    return None


def test_a_run_that_exists_is_named_before_training(data, tmp_path):
    """With other parameters, unless it failed; another number of requests at a time is no other parameter."""
    parameters = DEFAULTS | {"data": data, "root": str(tmp_path), "eval_suites": ["calculator"]}
    server = ("concurrency", "per_minute", "timeout")
    run = Run(**{name: value for name, value in parameters.items() if name not in server})  # as notebook 02 does
    run.finish()
    check_training(**parameters | {"concurrency": 2})
    with pytest.raises(InputError, match=r"exists with other parameters: steps \(was 30, now 31\)"):
        check_training(**parameters | {"steps": 31})
    run.finish("failed")
    check_training(**parameters | {"steps": 31})


def test_a_file_instead_of_the_folder_of_the_data_is_named(data):
    with pytest.raises(InputError, match="give the run folder of 01_build_data"):
        check_training(**DEFAULTS | {"data": f"{data}/tasks.parquet"})


def test_notebook_02_refuses_before_its_kernel_starts_and_leaves_nothing(data, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(notebook, "execute_notebook", lambda *_: started.append(1))
    given = {"data": data, "root": str(tmp_path), "run": "typo", "eval_suites": ["calculator", "retreival"]}
    with pytest.raises(InputError, match="did you mean retrieval"):
        notebook.run_notebook(NOTEBOOK, given)
    with pytest.raises(InputError, match="temperature=0"):
        notebook.run_notebook(NOTEBOOK, given | {"eval_suites": ["calculator"], "temperature": 0.0})
    assert not started and not os.listdir(tmp_path)


def test_checking_needs_neither_torch_nor_trl():
    code = "import sys, mentorlib.trainer.checks; sys.exit(bool({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_saved_model_ends_its_turns_where_they_ended_here(tmp_path):
    """A base model with a ChatML template: its own end token is another one than its turns'."""
    model, tokenizer = load_model("nano")
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(model, tokenizer, tmp_path / "model")
    saved = json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"]
    assert set(tokenizer.convert_ids_to_tokens(saved)) == {"<|im_end|>", "<|endoftext|>"}


def test_a_reward_of_answers_is_refused_for_tasks_that_are_graded_by_their_calls():
    pairs = [(replace(task, metric="calls"), reference) for task, reference in generate("calculator", 2, seed=1)]
    for reward in ("exact", "sparse", "credit"):
        with pytest.raises(InputError, match="graded by its calls, not by an answer: use toolrl, imitate"):
            check_tasks(pairs, "grpo", reward)
    for reward in ("toolrl", "imitate"):
        check_tasks(pairs, "grpo", reward)
    check_tasks(pairs, "sft")


def test_references_that_the_template_cannot_write_are_refused_before_training(tmp_path, sandbox):
    """Llama's template takes one call a turn."""
    model, tokenizer = load_model("nano")
    pairs = generate("calculator", 4, seed=1)
    task, reference = pairs[2]
    calls = {"role": "assistant", "content": "", "tool_calls": [call.message for call in [*reference.calls][:1] * 2]}
    messages = [calls, *[{"role": "tool", "content": "1"}] * 2, reference.messages[-1]]
    pairs[2] = (task, replace(reference, messages=messages))
    one_call = "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}"
    one_call += "{{ raise_exception('only one call a turn') }}{% endif %}{% endfor %}"
    tokenizer.chat_template = one_call + tokenizer.chat_template
    run = Run("refused", root=tmp_path)
    for train in (
        lambda: train_sft(run, model, tokenizer, pairs, steps=1, batch_size=2),
        lambda: train_grpo(run, model, tokenizer, pairs, sandbox, groups=2, group_size=2, demonstrations=True),
    ):
        with pytest.raises(InputError, match=f"reference of task {task.id} cannot be written .*only one call a turn"):
            train()
    assert sorted(os.listdir(run.path)) == [".writer", "run.json"]


def test_a_model_folder_that_is_a_link_stays_one(tmp_path):
    model, tokenizer = load_model("nano")
    (tmp_path / "large/disk").mkdir(parents=True)
    (tmp_path / "model").symlink_to("large/disk")
    for _ in range(2):
        save_model(model, tokenizer, tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and (tmp_path / "large/disk/config.json").is_file()
    assert os.listdir(tmp_path / "large") == ["disk"]
