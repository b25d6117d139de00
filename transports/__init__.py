"""accountledger's transports: they know bytes and time, and no venue."""

from transports.background import Background, background
from transports.connection import Connect, Connection, Inbox
from transports.feed import Feed, Health, login_of
from transports.live import Live, live
from transports.tape import Recording, TapeWriter, frames_of, open_recording, play, replay

__all__ = [
    "Background",
    "Connect",
    "Connection",
    "Feed",
    "Health",
    "Inbox",
    "Live",
    "Recording",
    "TapeWriter",
    "background",
    "frames_of",
    "live",
    "login_of",
    "open_recording",
    "play",
    "replay",
]
