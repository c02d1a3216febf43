"""What the user is told when a Serve application does not come up."""

from __future__ import annotations

from cluster.wiring import error_line

_TRACE = (
    "The deployment failed to start 3 times in a row. See controller logs for details. Error:\n"
    "ray::ServeReplica:stt:SpeechToText.initialize_and_get_metadata() (pid=1, ip=10.0.0.1)\n"
    '  File "replica.py", line 1928, in initialize\n'
    "    raise RuntimeError(traceback.format_exc()) from None\n"
    "RuntimeError: Traceback (most recent call last):\n"
    '  File "registry.py", line 157, in _check_options\n'
    '    raise ConfigError(f"The {port} engine")\n'
    "voice_agent.errors.ConfigError: The stt engine 'simulated' has no option bogus; allowed: final_ms.\n"
)


def test_the_error_itself_is_found_in_a_trace() -> None:
    told = error_line([_TRACE, "Failed to update the deployments ['SpeechToText']."])
    assert told == "voice_agent.errors.ConfigError: The stt engine 'simulated' has no option bogus; allowed: final_ms."


def test_without_a_trace_the_last_line_has_to_do() -> None:
    assert error_line(["", "Deploying.\nFailed to update the deployments."]) == "Failed to update the deployments."
    assert error_line([]) == "no reason given"
