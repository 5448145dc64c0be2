"""Which class of diffusers models space and which time: the table behind the groups of a pipeline's network."""

from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.resnet import AlphaBlender, TemporalConvLayer, TemporalResnetBlock
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel, TransformerTemporalModel
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition, Rules

SVD, LATTE, I2VGEN = UNetSpatioTemporalConditionModel, LatteTransformer3DModel, I2VGenXLUNet
RULES: Rules = {
    # Stable Video Diffusion: each spatial block is followed by a temporal one, mixed in by a learned weight
    SVD: "spatial",
    (SVD, "time_embedding"): "conditioning",
    (SVD, "add_embedding"): "conditioning",
    TemporalResnetBlock: "temporal",
    TemporalBasicTransformerBlock: "temporal",
    AlphaBlender: "temporal",
    (TransformerSpatioTemporalModel, "time_pos_embed"): "temporal",  # of the number of the frame
    # Latte: the same class of block in two lists, used in turns
    LATTE: "spatial",
    (LATTE, "temporal_transformer_blocks"): "temporal",
    (LATTE, "adaln_single"): "conditioning",
    (LATTE, "caption_projection"): "conditioning",
    # I2VGenXL: temporal layers behind the spatial ones, and the paths of the image
    I2VGEN: "spatial",
    TemporalConvLayer: "temporal",
    TransformerTemporalModel: "temporal",
    (I2VGEN, "time_embedding"): "conditioning",
    (I2VGEN, "fps_embedding"): "conditioning",
    **{
        (I2VGEN, f"{name}"): "image"
        for name in (
            "image_latents_proj_in",
            "image_latents_temporal_encoder",
            "image_latents_context_embedding",
            "context_embedding",  # of CLIP's image embedding
        )
    },
}
TIME_FIRST = ("UNetSpatioTemporalConditionModel", "CogVideoXTransformer3DModel")
"""Networks that take b t c h w; the others take b c t h w."""


def partition(network: nn.Module) -> Partition:
    """By `RULES`. UserError for a network that does not keep space and time apart."""
    if type(network) not in RULES:
        known = ", ".join(each.__name__ for each in (SVD, LATTE, I2VGEN))
        raise UserError(
            f"{type(network).__name__} has no separate space and time that are known here (they are of {known}): name "
            "groups of your own by patterns of parameter names, for example "
            '\'partition.groups={attention:"attn",rest:"^(?!.*attn)"}\' group=attention'
        )
    return Partition.of(network, RULES)
