"""Many emulated calls at once, from several processes: plans, the swarm itself, what came of it."""
