"""A policy behind an OpenAI-compatible server: it writes text and calls; the calls run here, in the sandbox.

Each reply is converted to a ChatML turn and treated as a local policy's turn. It is appended to the run's log
(``replies.jsonl``) when it arrives, under the hash of its request; no request in the log is sent again. A conversation
that the server refuses while it answers others is a trajectory with stop="infrastructure", which a rerun tries again;
the reason is in ``refused.jsonl``.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ..core import END, InputError, Trajectory
from ..runs.files import Row
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Task
from .chat_client import ChatClient, ContextFull, ConversationRefused, ServerGone
from .conversation import Conversation, run_calls
from .replies import answering, message_to_resend, rename_function, turn_text


class Endpoint:
    """A policy behind a server; called as ``run_rollouts`` is, without the engine.

    Args:
        url: where chat/completions is, such as http://localhost:8000/v1.
        model: its name at the server.
        run: the run whose ``replies.jsonl`` keeps every reply; the same run again asks only what is missing.
        concurrency: conversations at a time.
        per_minute: most requests a minute, evenly spaced, retries included; 0: no limit.
        timeout: seconds that a reply may take.
        patience: seconds for which a request is retried.
        prices: of a million prompt tokens and a million completion tokens, for the cost; without them no cost is shown.
        template_arguments: sent as ``chat_template_kwargs``, which vLLM, SGLang and llama.cpp hand to the template.

    Raises:
        InputError: an invalid address, one that contains a password, no model name, or prices that are not two.
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
        template_arguments: dict[str, Any] | None = None,
    ):
        self._log: dict[str, Row] = {}
        if (run.path / "replies.jsonl").exists():
            for row in run.read_rows("replies.jsonl"):
                if not {"key", "message", "finish", "usage", "failures"} <= row.keys():
                    raise InputError(f"{run.path / 'replies.jsonl'}: a row is not a reply: fix it, or move the file")
                self._log.setdefault(row["key"], row)
        self.client = ChatClient(
            url, model, per_minute=per_minute, timeout=timeout, patience=patience, answered=bool(self._log)
        )
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: at least one conversation at a time")
        if prices and len(prices) != 2:
            raise InputError(
                f"prices={prices}: give two, of a million prompt tokens and a million completion tokens, or []"
            )
        self.url, self.model, self.run, self.concurrency, self.prices = url, model, run, concurrency, prices
        self.template_arguments = template_arguments
        self._lock = threading.Lock()
        self._used: dict[str, Row] = {}  # the log's rows that went into trajectories

    @property
    def usage(self) -> dict[str, float]:
        """Totals of the trajectories so far, log included: replies, prompt and completion tokens, retries, cost."""
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
        progress: ProgressCallback | None = None,
    ) -> list[Trajectory]:
        """Sample one trajectory a task, in order; repeat a task for several samples.

        Args:
            tasks, sandbox, max_turns, temperature, system: see run_rollouts.
            max_tokens: most tokens that the model writes in a conversation; unlike in run_rollouts, tool results do not
                count, since only the server could count them.
            seed: not sent, since not every server accepts one: a rerun gives the same because of the log.
            progress: called with (done, all, metrics) after each conversation that was not complete in the log.

        Raises:
            InputError: the server rejects the key, model or tools, none answers at the address, or it stopped answering
                for longer than ``patience``; the replies so far are in the log.
        """
        samples: Counter[str] = Counter()
        conversations = []
        for task in tasks:
            served = ServedConversation(self, Conversation(task, max_turns), sandbox, max_tokens, temperature, system)
            opening = _hash(served.request())
            served.sample = samples[opening]
            samples[opening] += 1
            conversations.append(served)
        unfinished = [served for served in conversations if not served.advance(None)]
        stop, gone = threading.Event(), ""
        begun, replies_before = time.monotonic(), len(self._log)
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(served.advance, stop) for served in unfinished]
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    if progress:
                        speed = (len(self._log) - replies_before) / max(1e-9, time.monotonic() - begun)
                        progress(done, len(futures), {"replies/s": speed, **self._progress_metrics()})
            except ServerGone as e:
                gone = str(e)
            finally:
                stop.set()  # after an error this ends the waits; replies in flight still reach the log
                pool.shutdown(wait=True, cancel_futures=True)
        if gone:
            left = sum(served.conversation.stop is None for served in conversations)
            slow = f"give it a longer timeout= than {self.client.timeout:g} seconds, or a lower concurrency="
            remedies = {"timeout": slow, "connection": "start it"}
            raise InputError(
                f"{self.url} stopped answering ({gone}) with {left} of {len(tasks)} conversations open; its "
                f"replies are kept: {remedies.get(gone, 'fix what it says')}, then run the same again"
            )
        return [served.trajectory() for served in conversations]

    def _progress_metrics(self) -> dict[str, float]:
        usage = self.usage
        tokens = usage["prompt_tokens"] + usage["completion_tokens"]
        cost = {"cost": usage["cost"]} if self.prices else {}
        return {"tokens": tokens, "retries": self.client.retries, **cost}

    def reply(self, request: dict[str, Any], about: dict[str, Any], stop: threading.Event | None) -> Row | None:
        """The log's row for a request, after sending the request if it is not in the log.

        Args:
            request: model, messages, tools, temperature, max_tokens.
            about: task_id, sample, turn: stored in the log; sample is part of the key.
            stop: ends all waiting; None reads the log alone.

        Returns:
            The row, or None if it is not in the log and the server does not answer.

        Raises:
            ContextFull, ServerGone, InputError: see ChatClient.complete.
        """
        key = _hash([request, about["sample"]])
        with self._lock:
            row = self._log.get(key)
            if row is not None:
                self._used[key] = row
        if row is not None or stop is None or stop.is_set():
            return row
        try:
            reply = self.client.complete(request, stop)
        except ConversationRefused as e:
            if not stop.is_set():
                with self._lock:
                    self.run.append_rows("refused.jsonl", [{**about, "why": str(e)}])
            return None
        row = {"key": key, **about, **reply}
        with self._lock:
            self.run.append_rows("replies.jsonl", [row])
            self._log[key] = self._used[key] = row
        return row


class ServedConversation:
    """A conversation whose turns come from a server: the chat as the server reads it, and the text as ChatML."""

    def __init__(
        self,
        endpoint: Endpoint,
        conversation: Conversation,
        sandbox: Sandbox,
        max_tokens: int,
        temperature: float,
        system: str,
    ):
        self.endpoint, self.conversation, self.sandbox = endpoint, conversation, sandbox
        self.max_tokens, self.temperature = max_tokens, temperature
        toolbox = conversation.task.toolbox
        self.local_names = {_server_name(name): name for name in toolbox.names}
        self.tools = [_for_server(schema) for schema in toolbox.schemas]
        self.chat = conversation.task.prompt(system)
        self.sample = self.n_calls = self.n_tokens = 0
        self.response = ""

    def request(self) -> dict[str, Any]:
        """The next turn's request; its hash is the key of the log, so its fields must not change."""
        arguments = self.endpoint.template_arguments
        return {
            **({"chat_template_kwargs": arguments} if arguments else {}),
            "model": self.endpoint.model,
            "messages": self.chat,
            "tools": self.tools,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens - self.n_tokens,
        }

    def advance(self, stop: threading.Event | None) -> bool:
        """Add turns as long as there are replies (see Endpoint.reply); whether the conversation has ended."""
        while self.conversation.stop is None and self.n_tokens < self.max_tokens:
            about = {"task_id": self.conversation.task.id, "sample": self.sample, "turn": self.conversation.turns}
            try:
                row = self.endpoint.reply(self.request(), about, stop)
            except ContextFull:
                break
            if row is None:
                return False
            self.add_reply(row)
        self.conversation.stop = self.conversation.stop or "length"
        return True

    def add_reply(self, row: Row) -> None:
        """Add a row of the log as a turn, and run its calls."""
        message, cut = answering(row["message"], row["finish"]), row["finish"] == "length"
        calls = [rename_function(call, self.local_names) for call in message.get("tool_calls", [])]
        text = turn_text({**message, "tool_calls": calls})
        self.response += text if cut else text + END
        self.n_tokens += row["usage"]["completion_tokens"]
        raw = self.conversation.add_turn(text, cut)
        thought, turn = message.get("reasoning_content") or message.get("reasoning"), self.conversation.messages[-1]
        if isinstance(thought, str) and thought.strip():
            turn.setdefault("reasoning_content", thought.strip().replace("<|", "< |"))
        (results,) = run_calls([(self.conversation, raw)], self.sandbox)
        if not results:
            return
        blocks = "".join(f"\n<tool_response>\n{result}\n</tool_response>" for result in results)
        self.response += f"\n<|im_start|>user{blocks}{END}\n<|im_start|>assistant\n"
        resent = message_to_resend(message, raw, self.n_calls)
        resent["tool_calls"] = [_for_server(call) for call in resent["tool_calls"]]
        self.n_calls += len(raw)
        self.chat.append(resent)
        for call, result in zip(resent["tool_calls"], results, strict=True):
            self.chat.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def trajectory(self) -> Trajectory:
        """The trajectory so far; without a stop, the server failed."""
        return self.conversation.trajectory(self.response, n_sampled=self.n_tokens)


def _server_name(name: str) -> str:
    """A tool's name as servers accept it (OpenAI's rule): BFCL has math.factorial, and a model may invent any name."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name) or "unknown"


def _for_server(item: Row) -> Row:
    """A tool's schema, or a call of it, under the name that servers accept."""
    name = item["function"]["name"]
    return rename_function(item, {name: _server_name(name)})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
