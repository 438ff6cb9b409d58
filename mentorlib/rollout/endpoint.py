"""A policy behind an OpenAI-compatible server: conversations by chat completions, in the server's own tool format.

Tools run here, in the sandbox, as in ``rollout``; only text and calls come from the server. What it writes is turned
into ChatML and goes the same way as a local policy's turn, so that stops, rewards and analysis mean the same.

Every reply is appended to the run's log as it comes, under the hash of what was asked, and nothing that is in the log
is asked again. What passes (429, 5xx, time-outs, cut or garbled replies) is asked again with exponential backoff and
jitter; what does not (a refused key, an unknown model) is an InputError at once; what the server will not answer while
it answers others is a trajectory with stop="infrastructure", which a rerun takes up, and why is in ``refused.jsonl``.

The key is OPENAI_API_KEY of the environment, and goes nowhere but into the request's header.
"""

import hashlib
import json
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import openai
import tenacity

from ..core import END, InputError, Message, Stop, Trajectory, format_tool_result, parse_call, parse_turn, raw_calls
from ..runs.files import Row
from ..runs.run import KEY, Run, reject_credentials
from ..sandbox.pool import Sandbox
from ..sandbox.toolbox import call_many
from ..sandbox.validate import check_value
from ..task import SYSTEM, Task
from .loop import stop_reason

HELLO = 15.0  # seconds of patience where nothing that listens to us has been met yet: more likely a wrong address
TRIES = 8  # of a request that a server known to answer meets with HTTP 500 each time: it is what the server fails on
LOST = 8  # such requests in a row, with nobody answered between: the server fails on everything
LEAST = 64  # tokens to write that are worth asking for


class Endpoint:
    """A policy behind a server; call it as ``rollout`` is called, without the engine.

    Args:
        url: where chat/completions is, such as http://localhost:8000/v1.
        model: its name at the server.
        run: the run whose ``replies.jsonl`` keeps every reply; the same run again asks only what is missing.
        concurrency: conversations at a time.
        per_minute: requests a minute at most, evenly spaced, those asked again included; 0: no limit of ours.
        timeout: seconds that a reply may take.
        patience: seconds over which a request is asked again before it is given up.
        prices: of a million tokens read and a million written, for the cost; none given, none told.

    Raises:
        InputError: not an address, no model name, an address that holds a password, or prices that are not two.
    """

    def __init__(
        self,
        url: str,
        model: str,
        run: Run,
        *,
        concurrency: int = 8,
        per_minute: float = 0.0,
        timeout: float = 120.0,
        patience: float = 300.0,
        prices: list[float] | None = None,
    ):
        try:
            parts = urlsplit(url)
        except ValueError:  # such as half an IPv6 address
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r}: not a server's address: give one like http://localhost:8000/v1")
        reject_credentials(url)
        if not model:
            raise InputError(f"{url}: which model? give its name at that server")
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: at least one conversation at a time")
        if not 0 <= per_minute < math.inf:
            raise InputError(f"per_minute={per_minute}: requests a minute, or 0 for no limit")
        if prices and len(prices) != 2:
            raise InputError(f"prices={prices}: give two, of a million tokens read and a million written, or []")
        self.url, self.model, self.run, self.concurrency, self.patience = url, model, run, concurrency, patience
        self.prices = prices
        self._apart = 60 / per_minute if per_minute else 0.0  # seconds between requests
        self._next = 0.0  # when the next request may go out (time.monotonic)
        # A local server needs no key, but the client wants one.
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(KEY) or "none",
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(10.0, timeout)),
        )
        self._timeout = timeout
        self._limit = "max_tokens"  # what the server calls it
        self._lock = threading.Lock()
        self._log: dict[str, Row] = {}
        if (run.path / "replies.jsonl").exists():
            for row in run.read_rows("replies.jsonl"):
                if not {"key", "message", "finish", "usage", "failures"} <= row.keys():
                    raise InputError(f"{run.path / 'replies.jsonl'}: a row is no reply: move the file away, or mend it")
                self._log.setdefault(row["key"], row)
        self._used: dict[str, Row] = {}  # the rows that went into trajectories
        self._retries = 0  # also those that came to nothing
        self._met = False  # whether it took a request, be it to fail on it
        self._last_good: float | None = None  # when a good reply came (time.monotonic)
        self._lost = 0  # requests left to their HTTP 500 since then
        self._why = ""  # what the last request met, of a server that went away

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    @property
    def usage(self) -> dict[str, float]:
        """What the trajectories so far took, log included: replies, tokens read and written, retries, and the cost."""
        with self._lock:
            used = list(self._used.values())
        tokens = [sum(row["usage"][kind] for row in used) for kind in ("prompt_tokens", "completion_tokens")]
        usage: dict[str, float] = {
            "replies": len(used),
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "retries": sum(len(row["failures"]) for row in used),
        }
        if self.prices:
            usage["cost"] = sum(n * price for n, price in zip(tokens, self.prices, strict=True)) / 1e6
        return usage

    def __call__(
        self,
        tasks: list[Task],
        sandbox: Sandbox,
        *,
        max_turns: int = 8,
        max_tokens: int = 512,
        temperature: float = 1.0,
        system: str = SYSTEM,
        seed: int | None = None,
        report: Callable[..., None] | None = None,
    ) -> list[Trajectory]:
        """Let the model work on tasks; one trajectory a task, in order (repeat a task for several samples).

        Args:
            tasks: each brings its own toolbox.
            sandbox: where the tools run.
            max_turns: assistant turns at most.
            max_tokens: tokens that the model may write in a conversation; unlike in ``rollout``, tool results do not
                count, since only the server could count them.
            temperature: 0 is greedy.
            system: the system message.
            seed: not sent, since not every server takes one: the log is what makes a rerun give the same.
            report: told (done, all, metrics) after each conversation that the log did not hold whole.

        Raises:
            InputError: the server refuses for good (key, model, tools), none answers at the address, or it went away
                for longer than ``patience``; what it replied is in the log.
        """
        seen: Counter[str] = Counter()
        plays: list[_Conversation] = []
        for task in tasks:
            play = _Conversation(self, task, sandbox, max_turns, max_tokens, temperature, system)
            opening = _hash(play.request())
            play.sample = seen[opening]
            seen[opening] += 1
            plays.append(play)
        stop = threading.Event()
        open_ = [play for play in plays if not play.go_on(None)]  # what the log holds whole needs no server
        begun, before = time.monotonic(), self._asked()
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint") as pool:
            waiting = [pool.submit(play.go_on, stop) for play in open_]
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    future.result()
                    if report:
                        speed = (self._asked() - before) / max(1e-9, time.monotonic() - begun)
                        usage = self.usage
                        tokens = usage["prompt_tokens"] + usage["completion_tokens"]
                        shown = {"replies/s": speed, "tokens": tokens, "retries": self._retries}
                        report(done, len(open_), {**shown, **{k: v for k, v in usage.items() if k == "cost"}})
            except BaseException:
                stop.set()  # ends the waits; replies in flight still reach the log
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if stop.is_set():
            left = sum(play.stop is None for play in plays)
            slow = f"give it a longer timeout= than {self._timeout:g} seconds, or a lower concurrency="
            raise InputError(
                f"{self.url} stopped answering ({self._why}) with {left} of {len(plays)} conversations open; its "
                f"replies are kept: {slow if self._why == 'timeout' else 'start it'}, then run the same again"
            )
        return [play.trajectory() for play in plays]

    def _asked(self) -> int:
        with self._lock:
            return len(self._log)

    def reply(self, request: dict[str, Any], about: dict[str, Any], stop: threading.Event | None) -> Row | None:
        """The log's row for a request, asked for if it is not there; None where there is none to be had.

        Args:
            request: model, messages, tools, temperature, max_tokens.
            about: task_id, sample, turn: for the log; sample is part of the key.
            stop: ends all waiting; None reads the log alone.

        Raises:
            InputError: the server refuses for good.
            _Full: the messages fill the model's context.
        """
        key = _hash([request, about["sample"]])
        with self._lock:
            row = self._log.get(key)
            if row is not None:
                self._used[key] = row
        if row is not None or stop is None or stop.is_set():
            return row
        failures: list[str] = []
        begun = time.monotonic()
        try:
            while True:
                try:
                    reply = self._insist(request, stop, failures)
                    break
                except _Full:  # a part of it may fit, and no two servers say alike how large a part
                    if request["max_tokens"] < LEAST:
                        raise
                    request = {**request, "max_tokens": request["max_tokens"] // 2}
        except (_Passing, _Refused) as e:
            if isinstance(e, _Passing):
                self._give_up(e, begun, stop)
            if not stop.is_set():
                with self._lock:
                    self.run.append_rows("refused.jsonl", [{**about, "why": str(e)}])
            return None
        row = {"key": key, **about, **reply, "failures": failures, "seconds": round(time.monotonic() - begun, 3)}
        with self._lock:
            self.run.append_rows("replies.jsonl", [row])
            self._log[key] = self._used[key] = row
        return row

    def _insist(self, request: dict[str, Any], stop: threading.Event, failures: list[str]) -> dict[str, Any]:
        """Ask until there is a reply, or patience ends (_Passing)."""

        def failed(state: tenacity.RetryCallState) -> None:
            failures.append(str(state.outcome.exception()) if state.outcome else "")
            with self._lock:
                self._retries += 1

        def ended(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            patience = self.patience if self._met else min(HELLO, self.patience)
            own = str(error) == "HTTP 500" and state.attempt_number >= TRIES and self._answers()
            return own or stop.is_set() or tenacity.stop_before_delay(patience)(state)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            wait=tenacity.wait_exception(lambda e: getattr(e, "after", 0.0))
            + tenacity.wait_random_exponential(multiplier=0.5, max=60),
            stop=ended,
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=failed,
            reraise=True,
        )(self._ask, request, stop)

    def _give_up(self, error: "_Passing", begun: float, stop: threading.Event) -> None:
        """A request got no reply: stop all where the server answers nobody, InputError if it never did."""
        if stop.is_set():
            return
        if not self._met:
            raise InputError(
                f"{self.url}: no chat-completions server answers ({error}): start it, or mend the address (most end "
                "in /v1)"
            )
        if str(error) == "HTTP 500" and self._answers():
            with self._lock:
                self._lost += 1
            gone = self._lost >= LOST
        else:
            gone = self._last_good is None or self._last_good < begun
        if gone:
            self._why = str(error)
            stop.set()

    def _answers(self) -> bool:
        """Whether the server is known to answer, now or when the log was written."""
        return self._last_good is not None or bool(self._log)

    def _ask(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """One request and its reply as ``{"message", "finish", "usage"}``; _Passing, _Refused, _Full or InputError."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._apart
        if stop.wait(turn - now):
            raise _Passing("stopped")
        limit = self._limit
        body = {k: v for k, v in request.items() if k != "max_tokens" and (k != "tools" or v)}
        body[limit] = request["max_tokens"]
        mend: Exception
        try:
            # Read as text: what a server calls JSON is for us to judge.
            text = self._client.chat.completions.with_raw_response.create(**body).text
        except openai.APITimeoutError as e:
            self._met |= type(e.__cause__).__name__ != "ConnectTimeout"  # it may be loading its model
            mend = _Passing("timeout")
        except openai.APIConnectionError:
            mend = _Passing("connection")
        except openai.APIStatusError as e:
            self._met = True
            mend = self._mend(e, limit)
        except (openai.OpenAIError, ValueError):  # such as a reply that is not the encoding it says
            mend = _Passing("garbled")
        else:
            reply = _read(self._hide(text))
            if reply is None:
                mend = _Passing("garbled")
            else:
                self._met, self._last_good, self._lost = True, time.monotonic(), 0
                if reply["finish"] != "content_filter":
                    return reply
                mend = _Refused("content filter")
        raise mend  # outside of except: the client's own errors hold the request with its headers

    def _mend(self, error: openai.APIStatusError, limit: str) -> Exception:
        """What an error of the server means for us."""
        status = error.status_code
        said = self._hide(" ".join(str(error.message).split()))[:200]
        lower = said.lower()
        if status == 402 or error.code == "insufficient_quota":
            return InputError(f"{self.url}: the account has run out (HTTP {status}: {said}): add to it, then run again")
        if status in (408, 409, 425, 429) or status >= 500:
            return _Passing(f"HTTP {status}", _seconds(error.response.headers.get("retry-after")))
        if status in (401, 403):
            return InputError(f"{self.url} refuses the key (HTTP {status}): set {KEY} to one that it takes")
        if status == 404:
            return InputError(
                f"{self.url}: no model {self.model!r}, or no chat completions at this address (HTTP 404: {said}): "
                f"mend the model's name{self._names()} or the address (most end in /v1)"
            )
        if status == 413 or error.code == "context_length_exceeded" or "context length" in lower:
            return _Full(f"HTTP {status}")  # before the limit's name: vLLM gives both names of what is too large
        if limit == "max_tokens" and "max_completion_tokens" in lower:
            self._limit = "max_completion_tokens"  # OpenAI's reasoning models know no other name
            return _Passing("max_completion_tokens")
        if self._answers():
            return _Refused(said)  # it takes our settings, but not this conversation
        if "tool" in lower:
            return InputError(
                f"{self.url} serves {self.model!r} without tool calls (HTTP {status}: {said}): take a model with "
                "tools, or start vLLM with --enable-auto-tool-choice --tool-call-parser"
            )
        return InputError(
            f"{self.url} refuses the request (HTTP {status}: {said}): mend the model's name, {self.model!r}"
            f"{self._names()}, or its settings"
        )

    def _names(self) -> str:
        """What the server says it serves, if it says."""
        try:
            names = [self._hide(str(model.id))[:60] for model in self._client.models.list().data[:8]]
        except Exception:  # a hint only
            return ""
        return f" (there are: {', '.join(names)})" if names else ""

    def _hide(self, text: str) -> str:
        """The text without the key, should a server send it back."""
        key = os.environ.get(KEY)
        return text.replace(key, f"[{KEY}]") if key else text


class _Passing(Exception):
    """What may be over when asked again. ``after``: seconds the server wants us to wait."""

    def __init__(self, what: str, after: float = 0.0):
        super().__init__(what)
        self.after = after


class _Refused(Exception):
    """What the server will not answer in this conversation, while it answers others."""


class _Full(Exception):
    """The conversation fills the model's context."""


class _Conversation:
    """One conversation: the chat as the server reads it, and the trajectory that comes of it."""

    def __init__(
        self,
        endpoint: Endpoint,
        task: Task,
        sandbox: Sandbox,
        max_turns: int,
        max_tokens: int,
        temperature: float,
        system: str,
    ):
        self.endpoint, self.task, self.sandbox = endpoint, task, sandbox
        self.max_turns, self.max_tokens, self.temperature = max_turns, max_tokens, temperature
        # Hosts take letters, digits, _ and - (OpenAI's rule), and BFCL has names such as math.factorial.
        self.names = {re.sub(r"[^a-zA-Z0-9_-]", "_", name): name for name in task.toolbox.names}
        self.sample = self.turns = self.calls = self.written = 0
        self.chat = task.prompt(system)
        self.messages: list[Message] = []
        self.response = ""
        self.stop: Stop | None = None

    def request(self) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "messages": self.chat,
            "tools": [_renamed(schema, self._sent) for schema in self.task.toolbox.schemas],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens - self.written,
        }

    def _sent(self, name: str) -> str:
        """A tool's name as the server reads it."""
        return next((sent for sent, own in self.names.items() if own == name), name)

    def go_on(self, stop: threading.Event | None) -> bool:
        """Play from where it stands as far as replies are to be had (see Endpoint.reply); whether it came to an end."""
        while self.stop is None:
            if self.written >= self.max_tokens:
                self.stop = "length"
                break
            about = {"task_id": self.task.id, "sample": self.sample, "turn": self.turns}
            try:
                row = self.endpoint.reply(self.request(), about, stop)
            except _Full:
                self.stop = "length"
                break
            if row is None:
                return False
            self._hear(row)
        return True

    def _hear(self, row: Row) -> None:
        """Take a reply in, run its calls, and say how it ends the conversation if it does."""
        message = row["message"]
        calls = [_renamed(call, lambda name: self.names.get(name, name)) for call in message.get("tool_calls", [])]
        text = _turn({**message, "tool_calls": calls})
        self.written += row["usage"]["completion_tokens"]
        self.turns += 1
        self.messages.append(parse_turn(text))
        self.response += text
        if row["finish"] == "length":
            self.stop = "length"
            return
        self.response += END
        self.stop = stop_reason(text, last=self.turns >= self.max_turns, run=self.task.metric != "calls")
        if self.stop is not None:
            return
        raw = raw_calls(text)
        executions = call_many([(self.task.toolbox, call) for call in raw], self.sandbox)
        if any(e.fault == "sandbox" for e in executions):
            self.stop = "infrastructure"
            return
        results = [format_tool_result(e.text) for e in executions]
        self.messages += [{"role": "tool", "content": result} for result in results]
        blocks = "".join(f"\n<tool_response>\n{result}\n</tool_response>" for result in results)
        self.response += f"\n<|im_start|>user{blocks}{END}\n<|im_start|>assistant\n"
        again = _again(message, raw, self.calls)
        self.calls += len(raw)
        self.chat.append(again)
        again["tool_calls"] = [_renamed(call, self._sent) for call in again["tool_calls"]]
        for call, result in zip(again["tool_calls"], results, strict=True):
            self.chat.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def trajectory(self) -> Trajectory:
        """What came of it; without an end of its own, the server failed it."""
        stop = self.stop or "infrastructure"
        return Trajectory(self.task.id, self.messages, self.response, stop, counted=self.written)


def _renamed(item: Row, name: Callable[[str], str]) -> Row:
    """A tool's schema, or a call of it, under another name."""
    return {**item, "function": {**item["function"], "name": name(item["function"]["name"])}}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _seconds(header: str | None) -> float:
    """A Retry-After header in seconds from now (RFC 9110: seconds or a date); 0 where it says nothing we understand."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(header)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _read(text: str) -> dict[str, Any] | None:
    """The reply in a chat completion's JSON, as ``{"message", "finish", "usage"}``; None if it is anything else."""
    try:
        body = json.loads(text, parse_constant=_no_number)
        choice = body["choices"][0]
        if choice.get("finish_reason") in ("error", "abort"):  # as gateways and engines say that they failed
            return None
        message = {k: v for k, v in _clean(choice["message"]).items() if v not in (None, [])}
        content = message.get("content", "")
        if isinstance(content, list):  # parts
            message["content"] = "".join(part["text"] for part in content if part.get("type") == "text")
        elif not isinstance(content, str):
            return None
        for call in message.get("tool_calls", []):
            function = call["function"]
            if isinstance(function.get("arguments"), dict):
                function["arguments"] = json.dumps(function["arguments"])
            if not isinstance(function["name"], str) or not isinstance(function.get("arguments") or "", str):
                return None
        check_value(message)  # such as depth, which the log could not write
        usage = body.get("usage") or {}
        counts = {kind: max(0, int(usage.get(kind) or 0)) for kind in ("prompt_tokens", "completion_tokens")}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return {"message": {**message, "role": "assistant"}, "finish": choice.get("finish_reason"), "usage": counts}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _clean(value: Any) -> Any:
    """JSON whose texts are text: half of a surrogate pair, which no request could carry back, becomes "?"."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    return [_clean(v) for v in value] if isinstance(value, list) else value


def _turn(message: Message) -> str:
    """A reply as the text of a ChatML turn; control tokens that stand in texts are defused."""
    content = message.get("content", "").replace("<|", "< |")
    given = message.get("tool_calls")
    if not given:
        return content  # a server without a parser leaves calls in the text, where they count too
    blocks = [content.replace("tool_call>", "tool_call >")] if content else []
    for call in given:
        name, arguments = json.dumps(call["function"]["name"]), (call["function"].get("arguments") or "{}").strip()
        if any(tag in name + arguments for tag in ("<|", "tool_call>", "tool_response>")):
            name, arguments = name.replace("<", "\\u003c"), arguments.replace("<", "\\u003c")
        blocks.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(blocks)


def _again(message: Message, raw: list[str], first: int) -> Message:
    """A reply as the server reads it again: all that it held, with what servers are strict about mended.

    Ids are ours, in order, since some servers give none or the same twice (nine letters and digits, as Mistral's wants
    them). Arguments are a JSON object: where the model wrote none, the tool's answer says so.
    """
    given = message.get("tool_calls") or [{"type": "function"} for _ in raw]
    calls = []
    for number, (text, call) in enumerate(zip(raw, given, strict=True), first):
        parsed = parse_call(text)
        name = parsed.name if parsed else call.get("function", {}).get("name", "unknown")
        try:
            arguments = json.dumps(parsed.arguments if parsed else {}, allow_nan=False)
        except ValueError:
            arguments = "{}"
        calls.append({**call, "id": f"call{number:05d}", "function": {"name": name, "arguments": arguments}})
    content = message.get("content", "") if message.get("tool_calls") else parse_turn(_turn(message))["content"]
    return {**message, "content": content, "tool_calls": calls}
