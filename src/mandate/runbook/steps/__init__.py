"""One module per step of the guide; siblings never import each other."""
