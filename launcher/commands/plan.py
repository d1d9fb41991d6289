"""memory, FLOPs, communication and speed of a run before it starts; does it fit"""

import sys
from functools import partial
from typing import Annotated

import typer

from launcher.options import ConfigArgument, JsonOption, OverridesArgument, PluginOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm plan configs/papers/hourglass/enwik8-main.yaml parallel.data_parallel_degree=4 --device h100"

SLICES_AS_A_RUN = "importing torch and megatron-core, to slice the model as a run does (some seconds)"

DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="h100, h200, a100, a100-40gb, a plugin's, a file like those of configs/devices, or cpu: a share of this "
        "machine",
    ),
]
SearchOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=4096, help="also find the fastest layouts of N devices that fit")
]


def command(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    device: DeviceOption = "h100",
    search: SearchOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict what a run needs and how fast it should be; nothing is started, no dataset is read.

    When the layout does not fit the device, the nearest layouts that do are listed, fastest first.
    """
    with json_on_stdout(as_json) as print_document:
        from hierlm.config.load import load_config
        from launcher.preflight import refuse_missing_weights

        run = load_config(config, overrides or [])
        from hierlm.plan import devices

        devices.check(device)  # before seconds are spent on imports
        refuse_missing_weights(run)
        print(SLICES_AS_A_RUN, file=sys.stderr, flush=True)
        from hierlm.plan.plan import make_plan
        from hierlm.plan.text import show

        plan = make_plan(run, device_name=device, search=search, tell=partial(print, file=sys.stderr, flush=True))
        if as_json:
            print_document(plan.document())
        else:
            show(plan)
