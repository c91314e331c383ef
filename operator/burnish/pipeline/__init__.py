"""The steps from source to verdict, and the runner that drives them on one machine."""
