"""What TensorBoard reads: a file of events with the figures and samples of a run. Only this module needs tensorboardX.

A run that is resumed begins another file; TensorBoard drops what the earlier ones have from its first iteration on.
"""

import socket
import struct
import time
from typing import Any

from charlstm.errors import UserError
from charlstm.settings.config import Config
from charlstm.training.progress import Progress

_VERSION = "brain.Event:2"
_SCALARS = ("learning_rate", "chars_per_second")


def see_that_possible(config: Config) -> None:
    """Raise UserError if the options ask for events and the package that writes them is missing."""
    from importlib.util import find_spec

    if config.tensorboard and find_spec("tensorboardX") is None:
        raise UserError("--tensorboard: needs tensorboardX: pip install 'charlstm[tensorboard]'")


def file_name(iteration: int) -> str:
    """A name that TensorBoard recognises, for the events from this iteration on."""
    return f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{iteration}"


def beginning(iteration: int) -> bytes:
    """The first events of a file: its version, and that a session starts at this iteration."""
    from tensorboardX.proto.event_pb2 import SessionLog

    version = _record(file_version=_VERSION)
    if iteration == 0:
        return version
    return version + _record(step=iteration, session_log=SessionLog(status=SessionLog.START))


def figures(progress: Progress) -> bytes:
    """The event of a report or an evaluation; losses are nats per character, for a byte model per byte."""
    from tensorboardX.proto.summary_pb2 import Summary

    values = {"loss/train": progress.nats_per_char, "loss/smoothed": progress.smooth_loss / progress.loss_chars}
    values["bits_per_char/train"] = progress.bits_per_char
    if progress.val_bits_per_char is not None:
        values["bits_per_char/held-out"] = progress.val_bits_per_char
    values |= {name: getattr(progress, name) for name in _SCALARS}
    values |= {f"diagnostics/{name}": value for name, value in (progress.diagnostics or {}).items()}
    pairs = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return _record(step=progress.iteration, summary=Summary(value=pairs))


def sample(progress: Progress) -> bytes:
    """The event of a sample, which TensorBoard shows as it is, not as Markdown."""
    from tensorboardX.summary import text

    lines = (progress.prime + progress.sample).encode("utf-8", "backslashreplace").decode().splitlines()
    shown = "\n".join(f"    {line}" for line in lines)
    return _record(step=progress.iteration, summary=text(f"sample at temperature {progress.temperature:g}", shown))


def _record(**what: Any) -> bytes:
    """An event in the frame of the file format: length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = Event(wall_time=time.time(), **what).SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(sums) + content + next(sums)
