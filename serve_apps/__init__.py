"""Ray Serve deployments: the model plane and the HTTP ingress."""
