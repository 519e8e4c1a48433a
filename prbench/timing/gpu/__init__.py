"""Everything that prbench does on a GPU, checked and timed in one command: `prbench bench gpu`.

    run        the parts one after another within a budget of time, JSON after each of them
    machine    the device, its product rates and its bandwidth
    reading    the engines of the encoders on a random Llama, and what they do when memory runs out
    fits       time and memory of fitting, by method and data set, and what the paper's grid takes
    agreement  every method fitted on the device and on the CPU: do they decide alike?
    page       all of it as one plain HTML page

Nothing here, and nothing that it imports, needs more than torch, numpy, scipy, psutil, threadpoolctl, pydantic and
safetensors, and transformers for the engines: a machine with a GPU often has no network. It starts as
`python -m prbench.timing.gpu` from a checkout, without being installed.
"""
