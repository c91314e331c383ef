"""The operator itself: Kopf's handlers, the work queue, and the only module that talks to the apiserver."""
