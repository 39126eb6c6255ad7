"""The rivals that follow a gradient inside the purification, in one namespace."""

from hetpure_lab.defences.contrastive import Contrastive, Seeing, contrast
from hetpure_lab.defences.gdmp import GDMP
from hetpure_lab.defences.guidance import Guidance, guidance, residual
from hetpure_lab.defences.mimic import MimicDiffusion
from hetpure_lab.defences.pursamere import SharpnessAware
from hetpure_lab.defences.scoreopt import ScoreOpt

__all__ = [
    "GDMP",
    "Contrastive",
    "Guidance",
    "MimicDiffusion",
    "ScoreOpt",
    "Seeing",
    "SharpnessAware",
    "contrast",
    "guidance",
    "residual",
]
