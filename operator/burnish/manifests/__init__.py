"""From the resource to the objects it owns: pure builders of Jobs, Deployments, Services and the like, tested without a cluster."""
