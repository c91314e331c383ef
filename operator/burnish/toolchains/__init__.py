"""One virtual environment per toolchain, made on demand from hashed locks."""
