"""The training's side of the monitor."""
