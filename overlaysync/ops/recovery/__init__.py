"""Recovery: states of VMs saved into a vault, and brought back from one."""
