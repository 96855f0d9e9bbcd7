"""The parts of the screens; each draws frozen values and says by message what the user does to it."""
