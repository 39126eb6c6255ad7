"""Work spread over a Dask cluster: independent shards in, their results as they come. The extra
``scale`` installs what it needs.

A shard is done by one worker; a worker that dies costs the shards it had in hand, which others do
again. See ``book/scaling``.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hetpure_lab.common import extras, plugins
from hetpure_lab.evidence import code

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from distributed.security import Security

Result = TypeVar("Result")
PATIENCE = 3  # seconds for a scheduler to answer
TRIM = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"


def connect(address: str, tls: Tls | None = None) -> Client:
    """A client of the scheduler at `address`, such as ``tcp://host:8786``, or with `tls` files
    ``tls://host:8786``.

    Raises `ValueError` if Dask is missing, the address is none, or nobody answers there within
    `PATIENCE` seconds.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("a scheduler needs Dask: pip install 'hetpure[scale]'") from error
    if not re.fullmatch(r"\w+://[\w.\[\]:-]+:\d+", address):
        raise ValueError(f"a scheduler's address is such as tcp://host:8786, not {address!r}")
    if address.startswith("tls://") != (tls is not None):
        raise ValueError(
            f"{address}: a tls:// address needs --tls-ca, --tls-cert and --tls-key, and they need a"
            " tls:// address"
        )
    quiet = logging.getLogger("distributed")
    level, before = quiet.level, time.monotonic()
    quiet.setLevel(logging.CRITICAL)  # it would tell its own story beside the one sentence
    try:
        return within(
            PATIENCE + 1,
            lambda: Client(address, timeout=PATIENCE, security=tls.security() if tls else None),
        )
    except (OSError, ValueError, ImportError) as error:
        waited = f"{time.monotonic() - before:.0f} s"
        raise ValueError(
            f"no Dask scheduler answers at {address} ({waited}): {str(error).splitlines()[0]}"
        ) from error
    finally:
        quiet.setLevel(level)


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """The result of `work`. Raises `TimeoutError` if that takes longer: a listener may accept a
    call and never speak.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([done], seconds).done:
        raise TimeoutError("what listens there does not speak")
    return done.result()


@dataclass(frozen=True)
class Tls:
    """Files that make a connection private and both ends known: the authority's certificate, and
    one's own with its key.
    """

    ca: str
    cert: str
    key: str

    def security(self) -> Security:
        """For Dask, which then refuses anything that is not encrypted."""
        from distributed.security import Security

        if absent := [name for name in (self.ca, self.cert, self.key) if not Path(name).is_file()]:
            raise ValueError(f"no file {absent[0]}")
        files = {"tls_ca_file": self.ca, "tls_client_cert": self.cert, "tls_client_key": self.key}
        return Security(require_encryption=True, **files)


def check_versions(client: Client) -> None:
    """Raise `ValueError` unless all workers that are there run this process's sources."""
    ours = code.fingerprint()
    try:
        theirs = client.run(code.fingerprint)
    except Exception as error:
        raise ValueError(
            f"a worker cannot import hetpure_lab ({error}); start it where this checkout is"
            " installed"
        ) from error
    if other := sorted(worker for worker, found in theirs.items() if found != ours):
        raise ValueError(
            f"{other[0]} runs other sources than this process ({theirs[other[0]]} instead of"
            f" {ours}); update its checkout"
        )


def local(workers: int, **options) -> LocalCluster:
    """A cluster of `workers` processes of one thread on this machine.

    They keep freed memory for the next tensor. Dask has it returned to the system and faulted in
    again.
    """
    with extras.wanted():
        import dask
        from distributed import LocalCluster

    with dask.config.set({TRIM: None}):
        return LocalCluster(n_workers=workers, threads_per_worker=1, **options)


def each(client: Client, work: Callable, shards: Sequence[tuple]) -> Iterator:
    """``work(*shard)`` for every shard on the workers, in the order in which they finish; an error
    is raised after the rest is done.
    """
    from distributed import as_completed

    failed = []
    for future in as_completed(
        [
            client.submit(plugins.using, plugins.named(), work, *shard, pure=False)
            for shard in shards
        ]
    ):
        if future.status == "finished":
            yield future.result()
        else:
            failed.append(future)
    if failed:
        raise failed[0].exception()
