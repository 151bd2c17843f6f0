"""Work on a device that is launched many times: on CUDA it is captured as a graph, and launched as a whole then."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Replay:
    """Runs pieces of work, which read and write the same tensors each time, by their keys.

    A step for ten classes is over before the next could be launched from Python. On a CUDA device, a piece of work runs
    as it is the first time, which also lets the libraries prepare themselves; the second time it is captured as a CUDA
    graph, and from then on a single launch runs all of it, with the same bits. Elsewhere it runs as it is.

    Work must not wait for the device, nor ask it for a value, and all tensors that it makes are its own.

    Parameters
    ----------
    stream : torch.cuda.Stream or None
        The stream of all the work, which is not the default one; None where there is no CUDA.
    """

    def __init__(self, stream: "torch.cuda.Stream | None") -> None:
        self._stream = stream
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    def forget(self) -> None:
        """Forget all graphs; their memory is free then."""
        self._graphs.clear()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Run work that is the same each time for this key."""
        if self._stream is None:
            work()
            return
        import torch

        if key not in self._graphs:
            self._graphs[key] = None
            work()
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = torch.cuda.CUDAGraph()
            # Other threads of the process may use the device meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()
        graph.replay()
