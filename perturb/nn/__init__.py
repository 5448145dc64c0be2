"""The networks: torch and einops only, no files, no configuration objects."""

from perturb.nn.attention import Attention, ImageProjections
from perturb.nn.embeddings import ScalarEmbedding, sinusoid
from perturb.nn.resampler import ImageProjection, Resampler
from perturb.nn.resblock import ResBlock, TemporalConvolution
from perturb.nn.transformer import InitialTemporalTransformer, SpatialTransformer, TemporalTransformer
from perturb.nn.unet import VideoUNet

__all__ = [
    "Attention",
    "ImageProjection",
    "ImageProjections",
    "InitialTemporalTransformer",
    "ResBlock",
    "Resampler",
    "ScalarEmbedding",
    "SpatialTransformer",
    "TemporalConvolution",
    "TemporalTransformer",
    "VideoUNet",
    "sinusoid",
]
