"""The call as a state machine without I/O: events in, commands out, deadlines told, never waited for."""
