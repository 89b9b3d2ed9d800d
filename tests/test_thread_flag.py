from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from drystone.thread_flag import ThreadFlag


def test_each_thread_has_its_own_and_it_may_be_nested() -> None:
    flag = ThreadFlag()
    with ThreadPoolExecutor(1) as other, flag:
        with flag:
            assert flag
        assert flag and not other.submit(bool, flag).result()
    assert not flag
