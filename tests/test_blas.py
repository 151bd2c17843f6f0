"""The number of BLAS's threads, which belongs to the whole process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onelayer.blas import one_blas_thread


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """Begin with two threads, however many the environment asks for."""
    with threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_the_last_thread_to_go_takes_it_back(first_leaves_first):
    before = threads()
    if max(before) == 1:
        pytest.skip("this BLAS has one thread only")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for _ in range(2):  # whoever had it last
            places = [(one, one_blas_thread()), (other, one_blas_thread())]
            for thread, limit in places:
                thread.submit(limit.__enter__).result()
                assert set(threads()) == {1}
            for thread, limit in places if first_leaves_first else places[::-1]:
                assert set(threads()) == {1}
                thread.submit(limit.__exit__, None, None, None).result()
            assert threads() == before


def test_an_error_takes_it_back():
    before = threads()
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert threads() == before
