"""VMs, not files: which files of a directory or a definition are one VM, why, and what is left out.

Conventions are tried from the most explicit to the least: ``vm.toml``, libvirt XML that was named, the
``lab.yaml`` of inetdoc, quickemu's ``.conf``, then names alone. Definitions are text: nothing in them is run.
"""
