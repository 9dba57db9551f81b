"""minidalle beside dalle-pytorch 1.6.6, the best-known public DALL·E code, in one run on one machine.

    pip install --target other --no-deps dalle-pytorch==1.6.6 einops==0.8.2 rotary-embedding-torch==0.8.9 \
        axial-positional-embedding==0.3.12
    PYTHONPATH=other python benchmarks/against_dalle_pytorch.py [--json FILE]

Equal on both sides: width, depth, heads and their size, kinds of layers, text and image lengths, batch,
vocabularies. Left as each of them is: the other's MLP has a gate (half again as many weights), it rotates
keys and shifts tokens; ours has two heads. Its cache is on. Training is a step of AdamW on tokens.
Each pair is timed in turns, so that a disturbance of the machine meets both.
"""

KINDS = ("axial_row", "axial_col", "axial_row", "axial_row", "axial_row", "conv_like")
