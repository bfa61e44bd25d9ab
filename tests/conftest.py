from __future__ import annotations

import signal

# Started in the background of a shell, a process ignores Ctrl-C, and so would all that tests start to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
