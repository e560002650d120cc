from trainctl.registry import SCHEDULERS


@SCHEDULERS.register("none")
def none() -> None:
    """Constant learning rate: no scheduler."""
