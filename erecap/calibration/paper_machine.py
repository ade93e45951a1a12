"""The figures of a machine that the paper model starts from, each with its source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A figure of a machine, and where it comes from.

    Attributes
    ----------
    value
        The figure, in the unit that its field names.
    basis
        ``measured`` here, ``published`` by a vendor or by others who measured it, ``stated`` by the seed's document (which cannot
        be checked), ``given`` by the user, ``carried over`` from another machine, or ``assumed``.
    source
        The document, file or option.
    """

    value: float
    basis: str
    source: str


@dataclass(frozen=True)
class Efficiency:
    """How much of a machine's rates the engine reaches, and the least times of a layer.

    Attributes
    ----------
    linear
        Share of ``Machine.matrix_flops_per_s`` at which a prefill's matrices run, with all that grows with the number of tokens.
    attention
        The same for attention, by (query, key) pairs.
    reading
        Share of ``Machine.memory_bytes_per_s`` at which a decode step reads weights, keys and values.
    layer_s
        Least seconds of a layer in a prefill.
    step_layer_s
        Least seconds of a layer in a decode step.
    basis, source
        As in ``Rate``, of the figures of prefills.
    step_basis, step_source
        The same of ``reading`` and ``step_layer_s``.
    median_error, largest_error
        Relative errors of the fit on the points that it was made from; ``None`` where they are not known.
    """

    linear: float
    attention: float
    reading: float
    layer_s: float
    step_layer_s: float
    basis: str
    source: str
    step_basis: str
    step_source: str
    median_error: float | None = None
    largest_error: float | None = None


@dataclass(frozen=True)
class Link:
    """The connection between devices.

    Attributes
    ----------
    bytes_per_s
        From one device to another, in one direction.
    latency_s
        Seconds of the smallest message.
    bus_bytes_per_s
        Bus bandwidth of a large all-reduce, as nccl-tests define it.
    all_reduce_s
        Seconds of the smallest all-reduce.
    """

    bytes_per_s: Rate
    latency_s: Rate
    bus_bytes_per_s: Rate
    all_reduce_s: Rate


@dataclass(frozen=True)
class Machine:
    """A machine of equal devices.

    Attributes
    ----------
    name
        Name of the device.
    devices
        Number of devices.
    matrix_flops_per_s
        Rate of a large matrix product on one device.
    memory_bytes_per_s
        Bandwidth of one device's memory.
    memory_bytes
        Memory of one device in bytes; ``None`` where it is not known.
    link
        The connection between devices.
    efficiency
        What the engine reaches.
    """

    name: str
    devices: int
    matrix_flops_per_s: Rate
    memory_bytes_per_s: Rate
    memory_bytes: int | None
    link: Link
    efficiency: Efficiency

    def all_reduce_s(self, size_bytes: float, devices: int) -> float:
        """Compute the seconds of an all-reduce of ``size_bytes`` over ``devices`` devices."""
        return self.link.all_reduce_s.value + size_bytes * 2 * (devices - 1) / devices / self.link.bus_bytes_per_s.value

    def send_s(self, size_bytes: float) -> float:
        """Compute the seconds of a message of ``size_bytes`` between two devices."""
        return self.link.latency_s.value + size_bytes / self.link.bytes_per_s.value
