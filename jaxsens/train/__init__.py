"""Training: one network as pure functions, many as one program."""

from jaxsens.train.config import LOSSES, OPTIMIZERS, TrainConfig
from jaxsens.train.ensemble import Progress, default_member_axis, device_mesh, train_ensemble
from jaxsens.train.member import Member, Training, make_train

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "Member",
    "Progress",
    "TrainConfig",
    "Training",
    "default_member_axis",
    "device_mesh",
    "make_train",
    "train_ensemble",
]
