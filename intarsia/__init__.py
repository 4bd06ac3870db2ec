"""The types and functions that all packages share, and the model."""

import logging

# diffusers imports torchao, which is optional, wherever it is installed. What these say then is of kernels
# and checkpoints that nothing here uses, in five lines before the first word of every command.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
