"""The number of BLAS's threads, which belongs to the whole process."""

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onelayer.blas import one_blas_thread


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_the_last_to_go_takes_it_back():
    with threadpool_limits(limits=2, user_api="blas"):
        if 2 not in threads():
            pytest.skip("this BLAS has one thread only")
        before = threads()
        first, second = one_blas_thread(), one_blas_thread()  # as in two threads, of which the first is done first
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before
        with pytest.raises(KeyError), one_blas_thread():
            raise KeyError
        assert threads() == before
