"""Conversations with a real server (``transformers serve`` and the nano student), and through a faulty proxy."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faults import FAULTS, NANO, Proxy
from tiny import executed

from mentorlib.core import InputError, Trajectory, parse_call, raw_calls
from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.lab.batch.parameters import check_parameters
from mentorlib.rollout.chat_client import TransientError, redact_key, retry_after_seconds
from mentorlib.rollout.conversation import Conversation
from mentorlib.rollout.endpoint import Endpoint, ServedConversation
from mentorlib.rollout.engine import TorchEngine
from mentorlib.rollout.evaluation import evaluate
from mentorlib.rollout.grading import grade
from mentorlib.rollout.loop import run_rollouts
from mentorlib.rollout.model import load_model
from mentorlib.rollout.replies import ErrorReply, UnreadableReply, message_to_resend, parse_reply, turn_text
from mentorlib.runs.run import Run
from mentorlib.sandbox.toolbox import Toolbox
from mentorlib.trainer.checks import check_settings

CANARY = "sk-canary-5f2b91"


@pytest.fixture
def proxy(server):
    proxy = Proxy(server)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture(scope="module")
def pairs():
    return generate("calculator", 8, seed=9, split="eval")


@pytest.fixture(scope="module")
def tasks(pairs):
    return [task for task, _ in pairs]


def endpoint(url, path, name="run", **settings):
    return Endpoint(url, str(NANO), Run(name, path), **{"timeout": 30, **settings})


def comparable(trajectories):
    return [(t.task_id, t.messages, t.response, t.stop) for t in trajectories]


@pytest.fixture(scope="module")
def local(tasks, sandbox):
    return run_rollouts(TorchEngine(*load_model("nano")), tasks, sandbox, temperature=0.0)


def test_a_served_model_gives_the_same_trajectories_as_a_local_one(server, tasks, sandbox, local, tmp_path):
    policy = endpoint(f"{server}/v1", tmp_path, prices=[1.0, 2.0])
    served = policy(tasks, sandbox, temperature=0.0)
    assert comparable(served) == comparable(local)
    assert [t.n_tokens for t in served] == [t.n_tokens for t in local]
    again = [Trajectory.from_response(t.response, t.task_id) for t in served]
    assert comparable(again) == comparable(served)
    usage = policy.usage
    assert usage["completion_tokens"] == sum(t.n_tokens for t in local)
    assert usage["cost"] == (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6


@pytest.mark.parametrize("fault", FAULTS)
def test_transient_errors_are_retried(proxy, tasks, sandbox, local, tmp_path, fault):
    proxy.plan, proxy.slow = [fault, None, fault], 9
    policy = endpoint(proxy.url, tmp_path, timeout=8 if fault == "slow" else 60, concurrency=1)
    calls = []
    progress = lambda done, total, metrics: calls.append((done, total, metrics))  # noqa: E731
    begun = time.monotonic()
    assert comparable(policy(tasks[:2], sandbox, temperature=0.0, progress=progress)) == comparable(local[:2])
    assert proxy.injected == {fault: 2} and policy.usage["retries"] == 2
    assert [x[:2] for x in calls] == [(1, 2), (2, 2)] and calls[-1][2]["retries"] == 2
    assert fault != "429" or time.monotonic() - begun > 0.4  # Retry-After, twice
    assert set(proxy.delivered.values()) == {1}


def test_a_rerun_repeats_no_request_and_repairs_a_torn_line(proxy, tasks, sandbox, local, tmp_path):
    endpoint(proxy.url, tmp_path)(tasks[:4], sandbox, temperature=0.0)
    asked = proxy.reached.total()
    log = tmp_path / "run" / "replies.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])  # the last reply, half written
    assert comparable(endpoint(proxy.url, tmp_path)(tasks[:4], sandbox, temperature=0.0)) == comparable(local[:4])
    assert proxy.reached.total() == asked + 1
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == asked
    proxy.gone = True  # no server is needed for what is in the log
    assert comparable(endpoint(proxy.url, tmp_path)(tasks[:4], sandbox, temperature=0.0)) == comparable(local[:4])
    assert comparable(endpoint(proxy.url, tmp_path, "other", patience=0.1)(tasks[:0], sandbox)) == []


def test_a_rerun_continues_after_the_server_went_away(proxy, tasks, sandbox, local, tmp_path):
    policy = endpoint(proxy.url, tmp_path, patience=1.0, concurrency=2)
    gone_at = []

    def go(*_):
        proxy.gone = True
        gone_at.append(time.monotonic())

    with pytest.raises(
        InputError,
        match=r"stopped answering \(connection\) with [1-7] of 8 conversations open; its replies are kept: start it",
    ):
        policy(tasks, sandbox, temperature=0.0, progress=go)
    assert time.monotonic() - gone_at[0] < 10
    asked, proxy.gone = proxy.delivered.total(), False
    assert comparable(endpoint(proxy.url, tmp_path)(tasks, sandbox, temperature=0.0)) == comparable(local)
    assert set(proxy.delivered.values()) == {1} and proxy.delivered.total() > asked


def test_samples_of_one_task_are_separate_requests(proxy, tasks, sandbox, tmp_path):
    policy = endpoint(proxy.url, tmp_path)
    policy([tasks[0]] * 3, sandbox, temperature=0.0)
    assert max(proxy.delivered.values()) == 3
    assert {row["sample"] for row in Run("run", tmp_path).read_rows("replies.jsonl")} == {0, 1, 2}


def test_kill_9_loses_only_replies_in_flight(proxy, tmp_path, tasks, sandbox, local):
    code = (
        "import sys; from mentorlib import Endpoint, Run, Sandbox; from mentorlib.data.suites import generate\n"
        "tasks = [t for t, _ in generate('calculator', 8, seed=9, split='eval')]\n"
        "Endpoint(sys.argv[1], sys.argv[2], Run('run', sys.argv[3]), concurrency=2)(tasks, Sandbox(), temperature=0.0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, proxy.url, str(NANO), str(tmp_path)])
    log = tmp_path / "run" / "replies.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < 6:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the proxy's last replies to the killed process
    answered = proxy.delivered.total()
    assert answered - log.read_bytes().count(b"\n") <= 2
    assert comparable(endpoint(proxy.url, tmp_path)(tasks, sandbox, temperature=0.0)) == comparable(local)
    assert sum(n - 1 for n in proxy.delivered.values()) <= 2


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (f"401 wrong key {CANARY}", "set OPENAI_API_KEY"),
        ("404 no such model", r"there are: nano"),
        ('400 "auto" tool choice requires --enable-auto-tool-choice', "without tool calls"),
        ("400 temperature is out of range", "fix the model's name, .* or its settings"),
        ("402 insufficient balance", "the account has run out"),
    ],
)
def test_permanent_errors_end_the_run_at_once(proxy, tasks, sandbox, tmp_path, monkeypatch, answer, remedy):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    proxy.plan = [answer] * 8
    begun = time.monotonic()
    with pytest.raises(InputError, match=remedy) as raised:
        endpoint(proxy.url, tmp_path)(tasks, sandbox)
    assert time.monotonic() - begun < 5 and "\n" not in str(raised.value) and CANARY not in str(raised.value)
    assert raised.value.__context__ is None and raised.value.__cause__ is None


def test_no_server_is_a_one_line_error(tmp_path, tasks, sandbox):
    with pytest.raises(InputError, match="no chat-completions server answers"):
        endpoint("http://127.0.0.1:9/v1", tmp_path, patience=0.5)(tasks, sandbox)


def test_a_refused_conversation_does_not_stop_the_others(proxy, tasks, sandbox, local, tmp_path):
    proxy.plan = [None] * 40
    policy = endpoint(proxy.url, tmp_path, concurrency=1)
    policy(tasks[:1], sandbox, temperature=0.0)
    full = ["400 'max_tokens' or 'max_completion_tokens' is too large. This model's maximum context length is 3"] * 5
    proxy.plan = ["400 I do not like this one", *full, "content_filter"]
    done = policy(tasks[1:5], sandbox, temperature=0.0)
    assert [t.stop for t in done[:3]] == ["infrastructure", "length", "infrastructure"]
    assert comparable(done[3:]) == comparable(local[4:5])
    assert grade(tasks[1], done[0])["correct"] is None  # never wrong
    refused = [(row["task_id"], row["why"]) for row in policy.run.read_rows("refused.jsonl")]
    assert refused == [(tasks[1].id, "Error code: 400 - I do not like this one"), (tasks[3].id, "content filter")]


def test_fewer_tokens_are_requested_when_the_context_is_full(proxy, tasks, sandbox, local, tmp_path):
    proxy.plan = ["400 maximum context length is 4096 tokens and your request has 3900 input tokens"] * 2
    assert comparable(endpoint(proxy.url, tmp_path)(tasks[:1], sandbox, temperature=0.0)) == comparable(local[:1])


def test_a_slow_server_is_reported_as_slow_not_as_gone(proxy, tasks, sandbox, tmp_path):
    proxy.plan, proxy.slow = ["slow"] * 20, 1
    with pytest.raises(InputError, match=r"\(timeout\).* a longer timeout= than 0.3 seconds, or a lower concurrency="):
        endpoint(proxy.url, tmp_path, timeout=0.3, patience=1.0)(tasks[:2], sandbox)


def test_tool_names_that_hosts_reject_are_renamed(tmp_path, sandbox):
    """With a made-up reply: nano never calls such a name."""
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "description": "of what"}}}
    schema = {"name": "math.factorial", "description": "n!", "parameters": parameters}
    source = "import math\nglobals()['math.factorial'] = math.factorial"
    box = Toolbox("math", source, [{"type": "function", "function": schema}])
    task = replace(generate("calculator", 1, split="eval")[0][0], toolbox=box)
    policy = endpoint("http://127.0.0.1:9/v1", tmp_path)
    served = ServedConversation(policy, Conversation(task, max_turns=2), sandbox, 64, 0.0, "")
    assert [tool["function"]["name"] for tool in served.request()["tools"]] == ["math_factorial"]
    served.add_reply(
        {"message": call('{"n": 3}', "math_factorial"), "finish": "tool_calls", "usage": {"completion_tokens": 1}}
    )
    assert served.conversation.messages[0]["tool_calls"][0]["function"] == {
        "name": "math.factorial",
        "arguments": {"n": 3},
    }
    assert served.chat[-2]["tool_calls"][0]["function"]["name"] == "math_factorial"


def test_an_invented_name_is_sent_back_in_letters_that_hosts_accept(tmp_path, tasks, sandbox):
    policy = endpoint("http://127.0.0.1:9/v1", tmp_path)
    served = ServedConversation(policy, Conversation(tasks[0], max_turns=2), sandbox, 64, 0.0, "")
    message = call("{}", "search the web")
    served.add_reply({"message": message, "finish": "tool_calls", "usage": {"completion_tokens": 1}})
    assert "no tool" in served.chat[-1]["content"] and "search the web" in served.chat[-1]["content"]
    assert served.chat[-2]["tool_calls"][0]["function"]["name"] == "search_the_web"


def test_a_request_that_always_gets_http_500_is_given_up(proxy, tasks, sandbox, local, tmp_path, monkeypatch):
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_TRIES", 3)
    policy = endpoint(proxy.url, tmp_path, concurrency=2)
    proxy.failing_text, begun = '"fail"', time.monotonic()
    done = policy([replace(tasks[0], question="fail"), *tasks[1:4]], sandbox, temperature=0.0)
    assert done[0].stop == "infrastructure" and comparable(done[1:]) == comparable(local[1:4])
    assert time.monotonic() - begun < 30 and proxy.injected["500"] >= 3
    again = endpoint(proxy.url, tmp_path)([replace(tasks[0], question="fail"), *tasks[1:4]], sandbox, temperature=0.0)
    assert comparable(again) == comparable(done)  # also when it is the only request left
    assert {row["why"] for row in policy.run.read_rows("refused.jsonl")} == {"HTTP 500"}
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_REQUESTS", 1)  # a rerun asks nothing else
    again = endpoint(proxy.url, tmp_path)([replace(tasks[0], question="fail"), *tasks[1:4]], sandbox, temperature=0.0)
    assert comparable(again) == comparable(done)


@pytest.mark.parametrize("part", ['"messages"', '"tools"'])  # such as a server without a parser of calls
def test_a_server_that_fails_on_every_request_ends_the_run(proxy, tasks, sandbox, tmp_path, monkeypatch, part):
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_TRIES", 2)
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_REQUESTS", 3)
    policy = endpoint(proxy.url, tmp_path, concurrency=1)
    policy(tasks[:1], sandbox, temperature=0.0)
    proxy.failing_text = part
    with pytest.raises(InputError, match=r"stopped answering \(HTTP 500\) with 5 of 5 conversations open"):
        policy(tasks[1:6], sandbox, temperature=0.0)


def test_requests_a_minute_are_limited(tmp_path):
    proxy = Proxy("http://127.0.0.1:9")  # without a server: the proxy itself answers 429
    proxy.plan = ["429"] * 5  # retries count too
    policy, stop, begun = endpoint(proxy.url, tmp_path, per_minute=240), threading.Event(), time.monotonic()
    for _ in range(5):
        with pytest.raises(TransientError, match="HTTP 429"):
            policy.client._send({"model": "m", "messages": [], "max_tokens": 1}, stop)
    assert time.monotonic() - begun >= 4 * 60 / 240
    with pytest.raises(InputError, match="requests a minute"):
        endpoint(proxy.url, tmp_path, per_minute=-1)


def test_a_server_with_another_name_for_the_token_limit(proxy, tasks, sandbox, local, tmp_path):
    proxy.plan = ["400 'max_tokens' is not supported, use 'max_completion_tokens'"]
    assert comparable(endpoint(proxy.url, tmp_path)(tasks[:1], sandbox, temperature=0.0)) == comparable(local[:1])


def test_limits_end_a_conversation(server, tasks, sandbox, tmp_path):
    policy = endpoint(f"{server}/v1", tmp_path)
    assert {t.stop for t in policy(tasks, sandbox, temperature=0.0, max_turns=1)} <= {"turn_limit", "answered"}
    first = policy(tasks[:1], sandbox, temperature=0.0)[0]
    # Two tokens short of its end; a cut in a call's middle would be an error of this server's parser.
    (cut,) = policy(tasks[:1], sandbox, temperature=0.0, max_tokens=first.n_tokens - 2)
    assert cut.stop == "length" and not cut.ended and not cut.response.endswith("<|im_end|>")


def test_the_key_is_stored_and_shown_nowhere(proxy, tasks, sandbox, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    policy = endpoint(proxy.url, tmp_path)
    proxy.plan = ["500", f"503 {CANARY}", f"400 {CANARY}"]
    policy.client.answered = True
    policy(tasks[:3], sandbox, temperature=0.0, progress=lambda *x: print(x))
    assert proxy.keys == {f"Bearer {CANARY}"}  # it was sent
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert kept and CANARY.encode() not in kept
    assert CANARY not in repr(policy) + repr(vars(policy)) + repr(vars(policy.client)) + "".join(capfd.readouterr())
    assert redact_key(f"you sent {CANARY}") == "you sent [OPENAI_API_KEY]"
    monkeypatch.setenv("OPENAI_API_KEY", "x")  # a local server's: it is in any text
    assert redact_key("\\boxed{3}") == "\\boxed{3}"
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    run = Run("x", tmp_path)
    for make in (
        lambda url: Endpoint(url, "m", run),
        lambda url: Run("y", tmp_path, teacher=url),
        lambda url: Run("y", tmp_path, students=["nano", url]),
        lambda url: check_parameters(NOTEBOOKS / "01_build_data.ipynb", {"teacher": url}),
    ):
        for url in (f"https://me:{CANARY}@api.example/v1", f"https://api.example/v1?key={CANARY}"):
            with pytest.raises(InputError, match="holds a key") as raised:
                make(url)
            assert CANARY not in str(raised.value)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://[::1", "http://"])
def test_invalid_addresses(tmp_path, url):
    with pytest.raises(InputError, match="not a server's address"):
        Endpoint(url, "m", Run("x", tmp_path))


def call(arguments, name="add"):
    return {"tool_calls": [{"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1, "b": 2}',
        '{"a": "</tool_call><|im_end|>"}',
        "{bad",
        "",
        '{"a": NaN}',
        "[]",
        '{"a": "<|im_start|>user"}',
    ],
)
def test_hostile_calls_remain_one_call(arguments, sandbox):
    message = {"role": "assistant", "content": "<tool_call><|im_end|>", **call(arguments)}
    text = turn_text(message)
    trajectory = Trajectory.from_response(f"{text}<|im_end|>")
    assert sum(m["role"] == "assistant" for m in trajectory.messages) == 1
    (raw,) = raw_calls(text)
    assert CALCULATOR.call(raw, sandbox).fault != "sandbox"
    again = message_to_resend(message, [raw], 3)
    assert again["tool_calls"][0]["id"] == "call00003"
    sent = json.loads(again["tool_calls"][0]["function"]["arguments"])
    try:
        assert sent == json.loads(arguments) or sent == {}
    except ValueError:
        assert sent == {}


@pytest.mark.parametrize("content", [0, False, {}, 1.5])
def test_a_content_that_is_no_text_is_a_garbled_reply(content):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    with pytest.raises(UnreadableReply):
        parse_reply(json.dumps({"choices": [choice]}))


def test_calls_in_the_text_count():
    message = {"role": "assistant", "content": 'so <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'}
    again = message_to_resend(message, ['{"name": "add", "arguments": {"a": 1}}'], 0)
    assert again["content"] == "so" and again["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"choices": []}', '{"choices": [{}]}', '{"choices": [{"message": 3}]}'),
        *('{"choices": [{"message": {"content": 3}}]}', '{"choices": [{"message": {"tool_calls": [3]}}]}'),
        *('{"choices": [{"message": {"content": "x", "n": NaN}}]}', '{"error": {"code": 429}}', "[" * 100_000),
        '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 1e999}}',
        '{"choices": [{"message": {"content": "x", "deep": ' + "[" * 400 + "]" * 400 + "}}]}",
    ],
)
def test_a_garbled_reply_is_named(text):
    with pytest.raises(UnreadableReply) as error:
        parse_reply(text)
    assert len(str(error.value)) < 300 and len(str(error.value).splitlines()) == 1


ADD = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
RAW_ADD = '{"name": "add", "arguments": {"a": 2, "b": 3}}'


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        ({"content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}}, {"tool_calls": [ADD]}),
        ({"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}, {"tool_calls": [ADD]}),
        ({"tool_calls": {"id": "x", "name": "add", "parameters": {"a": 1}}}, {"tool_calls": [{"id": "x", **ADD}]}),
        (
            {"tool_calls": [{"id": "x", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
            {"tool_calls": [{"id": "x", **ADD}]},
        ),
        (
            {"content": [{"type": "text", "text": "so "}, "it ", {"type": "output_text", "text": "is"}]},
            {"content": "so it is"},
        ),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "so"}]},
            {"content": "so", "reasoning_content": "hm"},
        ),
        (
            {"content": [{"type": "tool_use", "id": "x", "name": "add", "input": {"a": 1}}]},
            {"content": "", "tool_calls": [{"id": "x", **ADD}]},
        ),
        ({"content": None, "reasoning_content": "5"}, {"reasoning_content": "5"}),
    ],
)
def test_replies_of_other_forms_are_read(message, becomes):
    reply = parse_reply(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))
    assert reply["message"] == {"role": "assistant", **becomes}
    assert turn_text(reply["message"]) is not None


def test_a_completion_s_text_is_read():
    assert parse_reply('{"choices": [{"text": "5"}]}')["message"] == {"role": "assistant", "content": "5"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "the GPU\nfell over", "code": 500}}, "the GPU fell over"),
        ({"error": "overloaded"}, "overloaded"),
        ({"error": {"code": 429}, "choices": []}, '{"code": 429}'),
        ({"object": "error", "message": "no such engine", "type": "NotFoundError"}, "no such engine"),
        ({"detail": "Method not allowed"}, "Method not allowed"),
        ({"errors": [{"message": "busy"}]}, "busy"),
        ({"choices": []}, 'no message: {"choices": []}'),
        ({"choices": [{"finish_reason": "error", "error": {"message": "upstream"}, "message": {}}]}, "upstream"),
    ],
)
def test_an_error_with_status_200_is_named_in_the_server_s_words(body, words):
    with pytest.raises(ErrorReply, match=re.escape(words)):
        parse_reply(json.dumps(body))


class Scripted(ThreadingHTTPServer):
    """A server that answers each request with the next of its bodies, with the last again and again."""

    def __init__(self, *bodies):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                text = json.dumps(bodies[0] if len(bodies) == 1 else bodies.pop(0)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        bodies = list(bodies)
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def said(finish="stop", **message):
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": {"completion_tokens": 1}}


@pytest.mark.parametrize(
    ("replies", "stop"),
    [
        ([said(content=None, reasoning_content="<think>so \\boxed{5}")], "answered"),
        ([said(content="", reasoning="so \\boxed{5}")], "answered"),
        ([said(content=[{"type": "text", "text": "so \\boxed{5}"}])], "answered"),
        ([said("length", content=None, reasoning_content="so \\boxed{5}")], "length"),  # a thought that was cut
        ([said(content="so \\boxed{5}", reasoning_content="\\boxed{4}")], "answered"),
        (
            [
                said("function_call", function_call={"name": "add", "arguments": {"a": 2, "b": 3}}),
                said("tool_calls", tool_calls=[{"name": "add", "arguments": {"a": 2, "b": 3}}]),
                said(content=None, reasoning=f"<tool_call>{RAW_ADD}</tool_call>"),
                said(content="\\boxed{5}"),
            ],
            "answered",
        ),
    ],
)  # fmt: skip
def test_conversations_with_replies_of_other_forms(replies, stop, tasks, sandbox, tmp_path):
    server = Scripted(*replies)
    (done,) = Endpoint(server.url, "m", Run("run", tmp_path))(tasks[:1], sandbox)
    server.shutdown()
    assert done.stop == stop
    if stop == "answered":
        assert done.messages[-1]["content"].endswith("\\boxed{5}")
        assert [m["content"] for m in done.messages if m["role"] == "tool"] == ["5"] * (len(replies) - 1)
    again = Endpoint("http://127.0.0.1:9/v1", "m", Run("run", tmp_path))(tasks[:1], sandbox)  # from the log
    assert comparable(again) == comparable([done])


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"error": {"message": f"model {CANARY} crashed", "code": 500}}, "model [OPENAI_API_KEY] crashed"),
        ({"choices": []}, "no message"),
        (said(content=None, refusal="I cannot help."), "the model refuses: I cannot help."),
        (said("content_filter", content="x"), "content filter"),
    ],
)
def test_what_a_server_refuses_is_an_infrastructure_failure_in_its_words(
    reply, why, tasks, sandbox, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_TRIES", 2)
    server = Scripted(said(content="\\boxed{5}"), reply)
    policy = Endpoint(server.url, "m", Run("run", tmp_path), concurrency=1)
    assert [t.stop for t in policy(tasks[:2], sandbox)] == ["answered", "infrastructure"]
    server.shutdown()
    (row,) = policy.run.read_rows("refused.jsonl")
    assert why in row["why"] and CANARY not in json.dumps(row)


def test_a_conversation_whose_reply_stays_unreadable_does_not_end_a_rerun(tasks, sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr("mentorlib.rollout.chat_client.MAX_HTTP_500_TRIES", 2)
    unreadable = said(content=0)
    for replies in ([said(content="\\boxed{5}"), unreadable], [unreadable]):
        server = Scripted(*replies)
        policy = Endpoint(server.url, "m", Run("run", tmp_path), concurrency=1)
        assert [t.stop for t in policy(tasks[:2], sandbox)] == ["answered", "infrastructure"]
        server.shutdown()


def test_arguments_that_are_no_object_are_the_models_error(tasks, sandbox, tmp_path):
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": [1, 2]}}
    server = Scripted(said("tool_calls", tool_calls=[call]), said(content="\\boxed{5}"))
    (done,) = Endpoint(server.url, "m", Run("run", tmp_path))(tasks[:1], sandbox)
    server.shutdown()
    assert done.stop == "answered" and done.messages[1]["content"].startswith("error")


def test_a_served_teachers_thought_is_kept(tasks, sandbox, tmp_path):
    add = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    server = Scripted(
        said("tool_calls", reasoning_content="I should add.", tool_calls=[add]), said(content="\\boxed{5}")
    )
    (done,) = Endpoint(server.url, "m", Run("run", tmp_path))(tasks[:1], sandbox)
    server.shutdown()
    assert done.messages[0]["reasoning_content"] == "I should add." and "reasoning_content" not in done.messages[2]


def test_a_server_that_only_fails_ends_the_run_in_its_words(tasks, sandbox, tmp_path):
    server = Scripted({"error": {"message": "the engine has died"}})
    with pytest.raises(InputError, match=r"stopped answering \(error in the reply: the engine has died\)"):
        Endpoint(server.url, "m", Run("run", tmp_path), patience=0.5)(tasks[:1], sandbox)
    server.shutdown()
    server = Scripted({"error": {"message": "no access", "code": "invalid_api_key"}})
    with pytest.raises(InputError, match="refuses the key"):
        Endpoint(server.url, "m", Run("key", tmp_path))(tasks[:1], sandbox)
    server.shutdown()


def test_half_a_surrogate_pair_is_replaced():
    reply = parse_reply('{"choices": [{"message": {"content": "\\ud800x", "tool_calls": null}}]}')
    assert reply["message"] == {"role": "assistant", "content": "?x"}
    assert parse_call('{"name": "\\ud83d", "arguments": {}}') is None  # as the text of a server without a parser


def test_retry_after_is_seconds_or_a_date():
    assert [retry_after_seconds(x) for x in (None, "2.5", "-3", "inf", "soon", "1e999")] == [0, 2.5, 0, 0, 0, 0]
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_seconds("Fri, 31 Dec 2100 23:59:59 GMT") > 1e9


def test_a_served_model_is_evaluated_like_a_local_one(server, pairs, sandbox, tmp_path):
    served = evaluate(endpoint(f"{server}/v1", tmp_path), pairs, sandbox)
    local = evaluate(TorchEngine(*load_model("nano")), pairs, sandbox)
    local_only = {"tokens", "logprobs"}  # a server gives none
    assert served == [{key: value for key, value in row.items() if key not in local_only} for row in local]


def test_a_served_model_cannot_be_trained():
    check_settings("none", student="http://localhost:8000/v1")
    for method in ("sft", "grpo"):
        with pytest.raises(InputError, match="evaluated \\(method=none\\) but not trained"):
            check_settings(method, student="http://localhost:8000/v1")


NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
def test_notebooks_accept_an_address(server, tmp_path):
    def execute(name, **parameters):
        executed(NOTEBOOKS / f"{name}.ipynb", tmp_path / f"{name}.ipynb", root=str(tmp_path), **parameters)

    at = f"{server}/v1"
    small = {"n_train": 6, "n_eval": 3, "sources": [], "suites": ["calculator"], "samples": 2, "prices": [1.0, 1.0]}
    execute("01_build_data", teacher=at, model=str(NANO), **small)
    data = Run.open("data", tmp_path)
    card = json.loads((data.path / "tasks.card.json").read_text())
    assert card["teacher"]["tasks"] == 6 and card["teacher"]["cost"] > 0 and card["rows"] == 6 * 2 + 3
    where = {"data": str(data.path), "eval_suites": ["calculator"], "n_eval": 3}
    execute("02_train", run="served", method="none", student=at, served=str(NANO), **where)
    run = Run.open("served", tmp_path)
    assert len(run.read_rows("eval/calculator.jsonl")) == 3 and not (run.path / "model").exists()
    assert all(check["ok"] for check in verify_run(run))
