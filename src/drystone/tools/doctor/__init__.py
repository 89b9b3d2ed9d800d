"""``drystone doctor``: whether this machine, this process and this PyTorch are set up well, and how to mend what is not."""
