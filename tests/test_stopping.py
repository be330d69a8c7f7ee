"""Test that the first signal waits for the block, and the second does not."""

import os
import signal
import threading
from signal import SIGINT, SIGTERM

import pytest

from jaxflow.stopping import Stopped, stopping


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_the_first_is_asked_for(number):
    before, done = signal.getsignal(number), []

    def step():
        with stopping() as asked:
            assert asked() is None
            send(number)
            assert asked() == number
            done.append("the step")
            raise Stopped(asked(), "after step 3")

    with pytest.raises(Stopped) as caught:
        step()
    assert done
    assert (caught.value.number, caught.value.kept) == (number, "after step 3")
    assert signal.getsignal(number) is before


def nobody_asks():
    with stopping():
        send(SIGTERM)


def an_error_comes_first():
    with stopping():
        send(SIGTERM)
        raise ZeroDivisionError("first")


def a_second_ends_the_block():
    with stopping():
        send(SIGINT)
        send(SIGTERM)
        raise AssertionError("it goes on")


def a_block_within_hands_it_on():
    with stopping() as outer:
        with stopping() as inner:
            send(SIGTERM)
            assert (inner(), outer()) == (SIGTERM, None)
        assert outer() == SIGTERM
        raise Stopped(outer(), "after step 3")


def a_second_within_a_block_ends_both():
    with stopping():
        send(SIGTERM)
        with stopping():
            send(SIGINT)
        raise AssertionError("it goes on")


@pytest.mark.parametrize(
    ("block", "error", "said"),
    [
        (nobody_asks, Stopped, "^stopped by SIGTERM$"),
        (an_error_comes_first, ZeroDivisionError, "^first$"),
        (a_second_ends_the_block, Stopped, "SIGTERM"),
        (a_block_within_hands_it_on, Stopped, "^stopped by SIGTERM after step 3$"),
        (a_second_within_a_block_ends_both, Stopped, "SIGINT"),
    ],
)
def test_what_ends_a_block(block, error, said):
    assert issubclass(Stopped, KeyboardInterrupt)
    with pytest.raises(error, match=said):
        block()


def test_what_is_ignored_stays_ignored():
    before = signal.signal(SIGINT, signal.SIG_IGN)
    try:
        with stopping() as asked:
            send(SIGINT)
            assert asked() is None
        assert signal.getsignal(SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(SIGINT, before)


def test_other_threads_catch_nothing():
    before, found = signal.getsignal(SIGTERM), []

    def work():
        with stopping() as asked:
            found.append((asked(), signal.getsignal(SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]
