"""How ONNX networks run on the CPU, beside other work."""

import onnxruntime


def session_options() -> onnxruntime.SessionOptions:
    """Options under which a network's threads sleep while they have nothing to do.

    By default they spin, which takes 1.6 to 2.1 times the CPU time and makes other processes and the network itself slower; the numbers
    are the same. The measurements are in `lynx_model/MEASURED.md`.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
