"""Work spread over a Dask cluster: independent shards in, their results as they come. The extra ``scale`` installs what it needs.

A shard is done by one worker; a worker that dies costs the shards it had in hand, which others do again. See ``book/scaling``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

TRIM = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"


def connect(address: str) -> Client:
    """A client of the scheduler at `address`, such as ``tcp://host:8786``. Raises `ValueError` if Dask is missing or nobody answers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("a scheduler needs Dask: pip install 'hetpure[scale]'") from error
    try:
        return Client(address)
    except OSError as error:
        raise ValueError(f"no Dask scheduler answers at {address}: {error}") from error


def local(workers: int, **options) -> LocalCluster:
    """A cluster of `workers` processes of one thread on this machine.

    They keep freed memory for the next tensor. Dask has it returned to the system and faulted in again.
    """
    import dask
    from distributed import LocalCluster

    with dask.config.set({TRIM: None}):
        return LocalCluster(n_workers=workers, threads_per_worker=1, **options)


def each(client: Client, work: Callable, shards: Sequence[tuple]) -> Iterator:
    """``work(*shard)`` for every shard on the workers, in the order in which they finish; an error is raised after the rest is done."""
    from distributed import as_completed

    failed = []
    for future in as_completed([client.submit(work, *shard, pure=False) for shard in shards]):
        if future.status == "finished":
            yield future.result()
        else:
            failed.append(future)
    if failed:
        raise failed[0].exception()
