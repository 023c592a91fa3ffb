"""Training: one network as pure functions, many as one program."""

from jaxsens.train.checkpoint import load_trained, save_trained
from jaxsens.train.config import LOSSES, OPTIMIZERS, TrainConfig
from jaxsens.train.devices import cores_as_devices, default_member_axis, device_mesh, devices_for
from jaxsens.train.ensemble import Progress, train_ensemble
from jaxsens.train.hyper import HyperParameters, hyper_parameters
from jaxsens.train.member import Member, Training, initial, make_train

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "HyperParameters",
    "Member",
    "Progress",
    "TrainConfig",
    "Training",
    "cores_as_devices",
    "default_member_axis",
    "device_mesh",
    "devices_for",
    "hyper_parameters",
    "initial",
    "load_trained",
    "make_train",
    "save_trained",
    "train_ensemble",
]
