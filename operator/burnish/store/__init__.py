"""The artifact store: content by digest, small records written last."""
