"""Ray actors: media gateway, call host, dispatcher, journal."""
