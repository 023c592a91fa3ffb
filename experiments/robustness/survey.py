from jaxsens import cli
from jaxsens.sweep.presets import SURVEY_CPU

EXPERIMENT = cli.Experiment("robustness/survey", "x", {"cpu": SURVEY_CPU}, lambda t, o: None, together=64)
if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
