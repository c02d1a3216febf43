"""Adapters from the ports in `voice_agent.ports` to real libraries, and the simulated engines. One engine a file."""
