"""How the losses of several exits train one encoder; the names that YAML uses."""

from lightning_modules.policies.gradient_equilibrium import GradientEquilibrium
from lightning_modules.policies.joint_sum import JointSum
from lightning_modules.policies.layer_weighted import LayerWeighted
from lightning_modules.policies.policy import ExitPolicy
from lightning_modules.policies.two_stage import TwoStage

__all__ = ["ExitPolicy", "GradientEquilibrium", "JointSum", "LayerWeighted", "TwoStage"]
