"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    # A shell that runs the tests in the background makes them, and so every process under test, ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
