"""What holds for every test: one thread, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else

import torch

torch.set_num_threads(1)
