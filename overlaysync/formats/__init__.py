"""Image formats: raw, QED and qcow2, each its own layer only; chains, layouts and QEMU's locks."""
