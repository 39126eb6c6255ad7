"""Somebody else's attacks side by side, one image each: what they ask of a defence at the same time
is answered in one batch.

A library that draws from PyTorch's global generator, or decides about a batch as a whole, must be
run image by image if an image's fate is not to depend on its neighbours. That feeds the networks
one row at a time. Here every image has a program, a thread, of which only one runs at any moment,
and only until it asks for logits or for their gradient. Every program has the global generator's
state for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetpure_lab.common import microbatch

Work = Callable[[nn.Module], Any]  # from a defence (images, ids, copies) -> logits to a result


class Abandoned(BaseException):
    """Nobody waits for a program's result any more."""


@dataclass
class Batch:
    """Rows that went through the defence together: images that carry a gradient, and logits."""

    x: Tensor
    logits: Tensor
    waiting: int  # programs that may still ask for a gradient


@dataclass
class Question:
    """What one program asks: logits of rows, or with a `cotangent` the gradient of those that it
    was given. The answer comes with where the rows lie in which `batch`.
    """

    rows: Tensor
    ids: Sequence = ()
    copies: Sequence[int] = ()
    gradient: bool = False
    cotangent: Tensor | None = None
    batch: Batch | None = None
    start: int = 0
    answer: Tensor | None = None


class Program(nn.Module):
    """One image's attack in a thread of its own; to the attack it is the defence."""

    def __init__(self, work: Work, place: int):
        super().__init__()
        self.place, self.asked, self.result, self.error = place, None, None, None
        self.abandoned = self.done = False
        self.state = torch.get_rng_state()
        self.go, self.stop = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._live, args=(work,), daemon=True)
        self.thread.start()

    def forward(self, images: Tensor, ids: Sequence, copies: Sequence[int]) -> Tensor:
        gradient = torch.is_grad_enabled() and images.requires_grad
        question = Question(images.detach(), ids, copies, gradient)
        # as logits of the CPU, their gradient is asked for by this thread and not by a device's
        logits = Answer.apply(images, self, question) if gradient else self.ask(question)
        return logits.to(images.device)

    def ask(self, question: Question) -> Tensor:
        """In the program: wait for the answer."""
        self.asked = question
        self._hand_over()
        return question.answer

    def resume(self) -> None:
        """Outside: let it run until it asks or is done."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.state)
        self.asked = None
        self.go.release()
        self.stop.acquire()
        self.state = torch.get_rng_state()
        torch.set_rng_state(outside)
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Outside: end it."""
        if not self.done:
            self.abandoned = True
            self.go.release()
            self.thread.join()

    def _hand_over(self) -> None:
        self.stop.release()
        self.go.acquire()
        if self.abandoned:
            raise Abandoned

    def _live(self, work: Work) -> None:
        self.go.acquire()
        try:
            if not self.abandoned:
                self.result = work(self)
        except Abandoned:
            pass
        except Exception as error:
            self.error = error
        self.done = True
        self.stop.release()


class Answer(torch.autograd.Function):
    """Logits of a program's images, and their gradient, both from outside."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, program: Program, question: Question) -> Tensor:
        ctx.program, ctx.question = program, question
        return program.ask(question).cpu()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        asked = ctx.question
        rest = {"batch": asked.batch, "start": asked.start}
        question = Question(asked.rows, cotangent=cotangent.detach(), **rest)
        return ctx.program.ask(question).to(asked.rows.device), None, None


def side_by_side(
    defence: nn.Module, more: Callable[[int], Sequence[Work]], at_once: int
) -> Iterator[tuple[int, Any]]:
    """Results of works as they are done, with their place in the order in which `more` handed them
    out. `more(k)` is asked for at most k works whenever there is room; none: no more.
    """
    running: list[Program] = []
    come = 0
    try:
        while True:
            new = [Program(work, come + i) for i, work in enumerate(more(at_once - len(running)))]
            come, running = come + len(new), running + new
            if not running:
                return
            for program in running:
                if program.asked is None or program.asked.answer is not None:
                    program.resume()
            done = [program for program in running if program.done]
            yield from ((program.place, program.result) for program in done)
            running = [program for program in running if not program.done]
            _answer(defence, [program.asked for program in running])
    finally:
        for program in running:
            program.abandon()


def _answer(defence: nn.Module, questions: Sequence[Question]) -> None:
    """Those of one kind together: gradients first, which end a batch, or else of logits with and
    without a gradient to come what more programs ask for. The others wait until more ask the same.
    """
    backward: dict[int, list[Question]] = {}
    for q in questions:
        if q.cotangent is not None:
            backward.setdefault(id(q.batch), []).append(q)
    for part in backward.values():
        _backward(part)
    if not backward:
        kinds = [[q for q in questions if q.gradient is kind] for kind in (False, True)]
        for part in _parts(max(kinds, key=len)):
            _forward(defence, part)


def _parts(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Parts that fit into memory."""
    part: list[Question] = []
    for question in questions:
        most = microbatch.rows(question.rows.device)
        if part and sum(len(q.rows) for q in part) + len(question.rows) > most:
            yield part
            part = []
        part.append(question)
    if part:
        yield part


def _forward(defence: nn.Module, questions: Sequence[Question]) -> None:
    gradient = questions[0].gradient
    x = torch.cat([q.rows for q in questions]).requires_grad_(gradient)
    ids, copies = ([v for q in questions for v in getattr(q, name)] for name in ("ids", "copies"))
    with torch.set_grad_enabled(gradient):
        logits = defence(x, ids, copies)
    batch, start = Batch(x, logits, len(questions)) if gradient else None, 0
    for q in questions:
        q.batch, q.start = batch, start
        q.answer = logits.detach()[start : start + len(q.rows)]
        start += len(q.rows)


def _backward(questions: Sequence[Question]) -> None:
    """Gradients for programs of one batch; those that ask later find the graph still there."""
    batch = questions[0].batch
    cotangent = torch.zeros_like(batch.logits)
    for q in questions:
        cotangent[q.start : q.start + len(q.rows)] = q.cotangent.to(cotangent)
    batch.waiting -= len(questions)
    keep = {"retain_graph": batch.waiting > 0}
    (gradient,) = torch.autograd.grad(batch.logits, batch.x, cotangent, **keep)
    for q in questions:
        q.answer = gradient[q.start : q.start + len(q.rows)]
