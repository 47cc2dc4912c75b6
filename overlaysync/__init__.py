"""overlaysync: share QEMU master images and overlays between the machines of a lab."""

__version__ = "0.1.0"
