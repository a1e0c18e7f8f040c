"""The device on boards: a top with a serial line, block RAM as external memory, and what each board needs."""
