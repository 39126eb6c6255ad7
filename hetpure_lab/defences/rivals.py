"""The samplers among the rivals, and the method's controls, in one namespace. Each has a file of
its own.
"""

from hetpure_lab.defences.adp import ADP
from hetpure_lab.defences.densepure import DensePure
from hetpure_lab.defences.diffap import RandomSampling
from hetpure_lab.defences.equal_energy import EqualEnergy
from hetpure_lab.defences.freqpure import FreqPure, with_low_frequencies
from hetpure_lab.defences.gradual import Gradual
from hetpure_lab.defences.image_gradient import ImageGradient, edges
from hetpure_lab.defences.langevin import Langevin
from hetpure_lab.defences.lorid import LoRID, TopSubspace, low_rank
from hetpure_lab.defences.reverse_sde import ProbabilityFlow, ReverseSDE
from hetpure_lab.defences.sampling import Rival, Scene, at_levels, chained
from hetpure_lab.defences.ssni import SSNI

__all__ = [
    "ADP",
    "SSNI",
    "DensePure",
    "EqualEnergy",
    "FreqPure",
    "Gradual",
    "ImageGradient",
    "Langevin",
    "LoRID",
    "ProbabilityFlow",
    "RandomSampling",
    "ReverseSDE",
    "Rival",
    "Scene",
    "TopSubspace",
    "at_levels",
    "chained",
    "edges",
    "low_rank",
    "with_low_frequencies",
]
