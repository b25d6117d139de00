"""accountledger's transports: they know bytes and time, and no venue."""

from transports.tape import Recording, TapeWriter, open_recording, play

__all__ = ["Recording", "TapeWriter", "open_recording", "play"]
