"""Version v1alpha1 of group burnish.dev: fields may be added, never renamed."""
