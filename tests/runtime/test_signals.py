"""Signals that ask to stop: collected, held back while processes start, ignored by those."""

import os
import signal
import threading
import time

import pytest

from dino_cli.runtime import (
    StopOverdue,
    check_stop,
    ignore_signals,
    starting_workers,
    stop_requests,
)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture(autouse=True)
def as_before():
    handlers = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGCHLD)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for number in STOPPING:  # so that one that is not caught fails a test and ends no others
        signal.signal(number, lambda *_: None)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.parametrize("number", STOPPING)
def test_a_stop_is_noted_and_waiting_ends_ten_seconds_after_the_first(clock, number):
    before = {each: signal.getsignal(each) for each in STOPPING}
    with stop_requests() as asked:
        assert asked == []
        clock.now += 1000
        check_stop()
        signal.raise_signal(number)
        assert asked == [number]
        clock.now += 6
        check_stop()
        signal.raise_signal(signal.SIGTERM)  # which gives no more time
        clock.now += 5
        with pytest.raises(StopOverdue):
            check_stop()
    check_stop()
    assert {each: signal.getsignal(each) for each in STOPPING} == before


def test_a_second_ctrl_c_stops_at_once_but_not_the_launchers_of_the_same_moment(clock):
    with stop_requests() as asked:
        signal.raise_signal(signal.SIGINT)
        clock.now += 0.9
        signal.raise_signal(signal.SIGINT)
        clock.now += 5
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    with stop_requests() as asked:  # Ctrl-C after another's signal is a second one too
        signal.raise_signal(signal.SIGTERM)
        clock.now += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_has_no_signals_to_ask_by():
    found = []

    def work():
        with stop_requests() as asked:
            found.append(asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_stops_wait_while_processes_start_and_torch_leaves_no_handler_for_children(elsewhere):
    """Also those that another thread gets, such as one that draws the progress."""

    def of_torch(*_):
        raise AssertionError

    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    child = signal.getsignal(signal.SIGCHLD)
    with stop_requests() as asked:
        with starting_workers():
            for number in STOPPING:
                signal.pthread_kill(
                    (thread if elsewhere else threading.main_thread()).ident, number
                )
            time.sleep(0.1)
            signal.signal(signal.SIGCHLD, of_torch)
            assert asked == []
        deadline = time.monotonic() + 10
        while len(asked) < len(STOPPING) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(asked) == sorted(STOPPING)
        assert signal.getsignal(signal.SIGCHLD) is child
        signal.raise_signal(signal.SIGTERM)
        assert len(asked) == 4
    over.set()
    thread.join()


def test_processes_that_load_hear_no_stop():
    """They were forked while signals waited; those that came meanwhile are gone too."""
    with starting_workers():
        ignore_signals()
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert not waiting & set(STOPPING)
        for number in STOPPING:
            os.kill(os.getpid(), number)
