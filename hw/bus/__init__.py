"""The way to external memory: AXI4 signatures, checked transfers, the read and the write master.

A client asks for a *transfer*: a window, an offset and a length, all in bytes. `BurstPlanner` checks it
against the address windows and cuts it into bursts; `ReadMaster` and `WriteMaster` put these on the bus and
bring data, completion and errors back to the client. `BusMaster` is the two of them behind one AXI4 port.

    clients (program fetch, load engine) --> BurstPlanner --> ReadMaster  --> AR, R   \\
                                                                                       AXI4 port
    clients (records, store engine)      --> BurstPlanner --> WriteMaster --> AW, W, B /
"""
