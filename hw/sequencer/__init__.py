"""The sequencer: from the doorbell to the interrupt.

    read client --> ProgramFetch --> Dispatcher --> CommandQueues --> running commands --> engines
                                                         ^                   |
                                                    TokenCounters <----------+--> RecordWriter --> write client

`Sequencer` holds them together: start, end, errors, watchdog, reset.
"""
