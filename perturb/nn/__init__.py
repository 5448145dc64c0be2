"""The networks: torch and einops only, no files; their numbers are in `spec`."""

from perturb.nn.attention import Attention, ImageProjections
from perturb.nn.dilation import dilated, dispersed, redilated_conv2d
from perturb.nn.embeddings import GuidanceEmbedding, ScalarEmbedding, frame_sinusoid, scale_sinusoid, sinusoid
from perturb.nn.resampler import ImageProjection, Resampler
from perturb.nn.resblock import ResBlock, TemporalConvolution
from perturb.nn.spec import ResamplerSpec, UNetSpec
from perturb.nn.transformer import InitialTemporalTransformer, SpatialTransformer, TemporalTransformer
from perturb.nn.unet import VideoUNet
from perturb.nn.windows import Windows

__all__ = [
    "Attention",
    "GuidanceEmbedding",
    "ImageProjection",
    "ImageProjections",
    "InitialTemporalTransformer",
    "ResBlock",
    "Resampler",
    "ResamplerSpec",
    "ScalarEmbedding",
    "SpatialTransformer",
    "TemporalConvolution",
    "TemporalTransformer",
    "UNetSpec",
    "VideoUNet",
    "Windows",
    "dilated",
    "dispersed",
    "frame_sinusoid",
    "redilated_conv2d",
    "scale_sinusoid",
    "sinusoid",
]
