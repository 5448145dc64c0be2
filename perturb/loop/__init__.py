"""The one loop of trainings and fits: one objective, one stream of global batches, resumable, on accelerate.

config.py      what can be set
schedule.py    stages and the learning rate as functions of the step
task.py        what a training or a fit consists of, as the loop sees it
loop.py        the loop: forward, backward, clip, AdamW, EMA, over any number of processes
staged.py      the data of its stages: what of a global batch is this process's, and the digest of what was seen
ema.py         the average of the weights, where one is kept
checkpoints.py resumable states: atomic, the last few and the best
stop.py        SIGTERM and Ctrl-C: save, then leave with a code of their own
journal.py     train.csv, validation.csv, TensorBoard, W&B, and where the time went
processes.py   the Accelerator: device, processes, precision, sharding
dropout.py     dropout that does not depend on how a batch is divided
"""
