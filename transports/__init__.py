"""accountledger's transports: they know bytes and time, and no venue."""

from transports.tape import Recording, TapeWriter, frames_of, open_recording, play

__all__ = ["Recording", "TapeWriter", "frames_of", "open_recording", "play"]
