"""Test that the first signal waits for the block, and the second does not."""

import os
import signal
import threading

import pytest

from jaxflow.stopping import Stopped, stopping

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_asked_for(number):
    before = signal.getsignal(number)
    done = []

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


def test_one_that_nobody_asked_for_is_not_lost():
    with pytest.raises(Stopped) as caught, stopping():
        send(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_an_error_goes_before_a_signal():
    def fail():
        with stopping():
            send(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_the_second_ends_the_block():
    def go_on():
        with stopping():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            raise AssertionError("it goes on")

    with pytest.raises(Stopped) as caught:
        go_on()
    assert caught.value.number == signal.SIGTERM


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as asked:
            send(signal.SIGINT)
            assert asked() is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_catch_nothing():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work():
        with stopping() as asked:
            found.append((asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


def test_a_stop_is_an_interrupt():
    assert issubclass(Stopped, KeyboardInterrupt)
    assert str(Stopped(signal.SIGTERM)) == "stopped by SIGTERM"
    assert str(Stopped(signal.SIGINT, "after step 3")) == "stopped by SIGINT after step 3"


def test_a_block_within_a_block_hands_its_signal_on():
    def step():
        with stopping() as outer:
            with stopping() as inner:
                send(signal.SIGTERM)
                assert (inner(), outer()) == (signal.SIGTERM, None)
            assert outer() == signal.SIGTERM
            raise Stopped(outer(), "after step 3")

    with pytest.raises(Stopped, match="after step 3"):
        step()


def test_a_second_signal_in_a_block_within_a_block_ends_both():
    def go_on():
        with stopping():
            send(signal.SIGTERM)
            with stopping():
                send(signal.SIGINT)
            raise AssertionError("it goes on")

    with pytest.raises(Stopped, match="SIGINT"):
        go_on()
