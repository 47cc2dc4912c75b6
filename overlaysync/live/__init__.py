"""Running VMs: which QEMU runs on an image, and a copy of its disks at one moment, through its monitor."""
